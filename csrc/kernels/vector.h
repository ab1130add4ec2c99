/* The vocabulary the algorithms are written in. v(add) is f32_add or f64_add, by what P is at that point; the ISA is the
 * header of ../simd that XENT_SIMD names. Both precisions are at hand in every kernel: sums over blocks are f64. */
#ifndef XENT_VECTOR_H
#define XENT_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../fma.h"
#include XENT_SIMD

#define XENT_JOIN_(a, b) a##_##b
#define XENT_JOIN(a, b) XENT_JOIN_(a, b)
#define v(name) XENT_JOIN(P, name)
#define c(name) XENT_JOIN(v(constant), name)

/* A stage of its own in the binary, too: compiled once, whoever calls it. */
#define NOINLINE __attribute__((noinline))

/* 1.5 * 2^(mantissa bits) + the exponent's bias: adding it leaves the nearest integer, as `power` takes it, in the low bits.
 * EXP_LOWEST lies below the logarithm of the smallest normal number (-87.34, -708.40) and rounds to its exponent;
 * TANH_LOWEST is that of a quarter of it; LIFT makes a subnormal number normal. */
#define f32_constant_MAGIC 0x1.8000fep23f
#define f32_constant_LOG2E 0x1.715476p+0f
#define f32_constant_LN2 0x1.62e43p-1f
#define f32_constant_LN2_LOW -0x1.05c61p-29f
#define f32_constant_EXP_LOWEST -87.5f
#define f32_constant_EXP_LEAST -0x1.5d589ep+6f
#define f32_constant_TANH_LOWEST -0x1.62e42ep+6f
#define f32_constant_EXP_TERMS 5
#define f32_constant_LOG_TERMS 4
#define f32_constant_LOG1P_TERMS 9
#define f32_constant_TANH_TERMS 5
#define f32_constant_TANH_NEAR 0.625f
#define f32_constant_LARGEST 0x1.fffffep127f
#define f32_constant_TINY 0x1p-126f
#define f32_constant_LIFT 0x1p32f
#define f32_constant_LIFT_EXPONENT 32
static const float f32_exp_terms[] = {0x1.fffffb9a58e21p-2f, 0x1.5554915420452p-3f, 0x1.5558f17bd9dc7p-5f,
                                      0x1.1239e2a4f545fp-7f, 0x1.6a243550adbe7p-10f};
static const float f32_tanh_terms[] = {-0x1.555532d85a07bp-2, 0x1.110726d319320p-3, -0x1.b83c59c053647p-5,
                                       0x1.52269aa05abc2p-6, -0x1.75e1ca56bd575p-8};
static const float f32_log_terms[] = {0x1.555554fd93853p-1f, 0x1.999a7a9ca1b9cp-2f, 0x1.2438d2dd13bdfp-2f,
                                      0x1.e2f7221dc6be6p-3f};

#define f64_constant_MAGIC 0x1.80000000003ffp52
#define f64_constant_LOG2E 0x1.71547652b82fep+0
#define f64_constant_LN2 0x1.62e42fefa39efp-1
#define f64_constant_LN2_LOW 0x1.abc9e3b39803fp-56
#define f64_constant_EXP_LOWEST -708.5
#define f64_constant_EXP_LEAST -0x1.6232bdd7abcd2p+9
#define f64_constant_TANH_LOWEST -0x1.62e42fefa39efp+9
#define f64_constant_EXP_TERMS 10
#define f64_constant_LOG_TERMS 7
#define f64_constant_LOG1P_TERMS 20
#define f64_constant_TANH_TERMS 9
#define f64_constant_TANH_NEAR 0.3125
#define f64_constant_LARGEST 0x1.fffffffffffffp1023
#define f64_constant_TINY 0x1p-1022
#define f64_constant_LIFT 0x1p64
#define f64_constant_LIFT_EXPONENT 64
static const double f64_tanh_terms[] = {-0x1.5555555555555p-2,  0x1.11111111110f3p-3,  -0x1.ba1ba1ba13a20p-5,
                                        0x1.664f487c2b317p-6,   -0x1.226e32a6234d1p-7, 0x1.d6d28d19a0a4dp-9,
                                        -0x1.7d77027b2866ep-10, 0x1.31c5f949b5be7p-11, -0x1.a4c3080fb5e9fp-13};
static const double f64_exp_terms[] = {
    0x1.000000000000ap-1,  0x1.55555555554fap-3,  0x1.555555555087dp-5,  0x1.1111111127be9p-7,  0x1.6c16c1842a0e4p-10,
    0x1.a01a012a56626p-13, 0x1.a0199a0c7067bp-16, 0x1.71df2555820b7p-19, 0x1.28ad72c46d724p-22, 0x1.ad7f6966eed54p-26};
static const double f64_log_terms[] = {0x1.5555555555592p-1, 0x1.999999997fd76p-2, 0x1.24924941f5034p-2,
                                       0x1.c71c5206028d7p-3, 0x1.74663fa321262p-3, 0x1.39a1a6e05cda7p-3,
                                       0x1.2f06355979b5fp-3};

static const float f32_log1p_terms[] = {-0x1.ffffd2p-2, 0x1.554df0p-2,  -0x1.ff26e2p-3, 0x1.935ca2p-3, -0x1.3a7a88p-3,
                                        0x1.b579d4p-4,  -0x1.d86344p-5, 0x1.4b0854p-6,  -0x1.b2f5b8p-9};
static const double f64_log1p_terms[] = {
    -0x1.fffffffffff9fp-2, 0x1.5555555551029p-2,  -0x1.fffffffdd3b94p-3, 0x1.99999951e4712p-3,   -0x1.55554fbd0c4abp-3,
    0x1.2491fecbe868cp-3,  -0x1.fffa8b0340baep-4, 0x1.c6f6a3e1d6713p-4,  -0x1.98d284cf215aap-4,  0x1.712dbd48a05c3p-4,
    -0x1.4b019464f604fp-4, 0x1.202ce37888bc7p-4,  -0x1.d70e242b38e16p-5, 0x1.5a856c04088c1p-5,   -0x1.b62bb5c4fa0a9p-6,
    0x1.c575b1b6ad0e8p-7,  -0x1.6b452003f4243p-8, 0x1.a24f40e2d1d6cp-10, -0x1.31ee1b561c1c1p-12, 0x1.a8f5c62dc5033p-16};

#define P f32
#include "math.h"
#undef P
#define P f64
#include "math.h"
#undef P

#endif
