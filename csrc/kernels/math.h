/* exp, log, log1p and tanh over a vector, once for both precisions: included with P = f32 and with P = f64.
 *
 * Each is a fixed sequence of correctly rounded operations, so its bits are the same on every instruction set. Errors
 * are the largest seen over all floats of the domain (f32) or over random doubles and the neighbours of the worst (f64), in
 * units of the last place of the exact result: tests/ulp.py, of which tests/test_math.py is a sample. Coefficients: minimax
 * fits (Remez), rounded. */

/* exp(t) for t <= 0 and NaN, at most 0.89 ulp (f32), 0.93 ulp (f64); 0 where it is under the smallest normal number.
 * e^t = 2^n e^r, cut by Cody and Waite's two-part log 2. */
typedef struct {
    v(vec) reduced, slope, n; /* r, (e^r - 1) / r, and n as `power` takes it */
} v(exp_parts);

static inline v(exp_parts) v(exp_split)(v(vec) t) {
    const v(vec) magic = v(set)(c(MAGIC));
    v(exp_parts) part;
    part.n = v(fma)(t, v(set)(c(LOG2E)), magic);
    const v(vec) n = v(sub)(part.n, magic);
    part.reduced = v(fnma)(n, v(set)(c(LN2_LOW)), v(fnma)(n, v(set)(c(LN2)), t));
    v(vec) q = v(set)(v(exp_terms)[c(EXP_TERMS) - 1]);
    for (int i = c(EXP_TERMS) - 2; i >= 0; --i)
        q = v(fma)(q, part.reduced, v(set)(v(exp_terms)[i]));
    part.slope = v(fma)(q, part.reduced, v(set)(1));
    return part;
}

/* The same for t >= EXP_LEAST, the least t whose exponential is a normal number; below, it is meaningless. The last factor
 * is a power of two, so nothing is rounded by it; a NaN is in the first. */
static inline v(vec) v(exp_normal)(v(vec) t) {
    const v(exp_parts) part = v(exp_split)(t);
    return v(scale)(v(fma)(part.slope, part.reduced, v(set)(1)), part.n);
}

/* (e^r - 1 - r) / r^2 for |r| <= log(2) / 2, at most 2.5 ulp (f32), 12 (f64): nothing cancels. */
static inline v(vec) v(exp_rest_share)(v(vec) r) {
    v(vec) q = v(set)(v(exp_terms)[c(EXP_TERMS) - 1]);
    for (int i = c(EXP_TERMS) - 2; i >= 0; --i)
        q = v(fma)(q, r, v(set)(v(exp_terms)[i]));
    return q;
}

static inline v(vec) v(exp)(v(vec) t) { return v(keep)(v(nlt)(t, v(set)(c(EXP_LEAST))), v(exp_normal)(t)); }

/* k log 2 + log(1 + f), with log(1 + f) = 2 atanh(s), s = f / (2 + f), arranged as in fdlibm's e_log.c. */
static inline v(vec) v(log_parts)(v(vec) f, v(vec) k) {
    const v(vec) half = v(set)((v(real))0.5);
    const v(vec) s = v(div)(f, v(add)(v(set)(2), f));
    const v(vec) z = v(mul)(s, s), square = v(mul)(half, v(mul)(f, f));
    v(vec) q = v(set)(v(log_terms)[c(LOG_TERMS) - 1]);
    for (int i = c(LOG_TERMS) - 2; i >= 0; --i)
        q = v(fma)(q, z, v(set)(v(log_terms)[i]));
    const v(vec) tail = v(fma)(s, v(fma)(q, z, square), v(mul)(k, v(set)(c(LN2_LOW))));
    return v(fma)(k, v(set)(c(LN2)), v(sub)(f, v(sub)(square, tail)));
}

typedef struct {
    v(vec) f, k;
} v(log_split);

/* log(1 + x) for -1 < x <= 2^126 (f32) or 2^1022 (f64) and NaN, at most 1.4 ulp (f32), 1.41 (f64).
 * 1 + x = 2^k (1 + f) with f taken from x itself, so that nothing of a small x is lost. */
static inline v(log_split) v(split_log1p)(v(vec) x) {
    const v(vec) one = v(set)(1), k = v(exponent)(v(add)(one, x));
    const v(vec) scale = v(power)(v(sub)(v(set)(c(MAGIC)), k));
    return (v(log_split)){v(fma)(x, scale, v(sub)(scale, one)), k};
}

static inline v(vec) v(log1p)(v(vec) x) {
    const v(log_split) part = v(split_log1p)(x);
    return v(log_parts)(part.f, part.k);
}

/* The same for 0 <= x <= 1, as x + x^2 q(x), at most 1.5 ulp (f32), 1.6 (f64). No division; terms in pairs, which halves the
 * chain. */
static inline v(vec) v(log1p_unit)(v(vec) x) {
    enum { PAIRED = c(LOG1P_TERMS) & ~1 };
    const v(vec) square = v(mul)(x, x);
    v(vec) q = PAIRED < c(LOG1P_TERMS) ? v(set)(v(log1p_terms)[PAIRED]) : v(set)(0);
    for (int i = PAIRED - 2; i >= 0; i -= 2)
        q = v(fma)(q, square, v(fma)(v(set)(v(log1p_terms)[i + 1]), x, v(set)(v(log1p_terms)[i])));
    return v(fma)(q, square, x);
}

/* log(x) for 0 <= x <= 2^126 (f32) or 2^1022 (f64), subnormal numbers included, at most 1.0 ulp (f32, f64). -inf of 0; NaN
 * of NaN and of negative numbers. */
static inline v(log_split) v(split_log)(v(vec) x) {
    const v(mask) small = v(lt)(x, v(set)(c(TINY)));
    const v(vec) normal = v(select)(small, v(mul)(x, v(set)(c(LIFT))), x), k = v(exponent)(normal);
    const v(vec) scale = v(power)(v(sub)(v(set)(c(MAGIC)), k));
    return (v(log_split)){v(fma)(normal, scale, v(set)(-1)), v(sub)(k, v(keep)(small, v(set)(c(LIFT_EXPONENT))))};
}

static inline v(vec) v(log)(v(vec) x) {
    const v(vec) zero = v(set)(0);
    const v(log_split) part = v(split_log)(x);
    const v(vec) log = v(log_parts)(part.f, part.k);
    return v(select)(v(eq)(x, zero), v(set)((v(real)) - INFINITY), v(select)(v(lt)(x, zero), v(set)((v(real))NAN), log));
}

/* The cap c tanh(x / c) and its slope 1 - tanh(x / c)^2. With c = 1 at most 2.7 ulp (f32, f64), the slope at most 5.3 ulp
 * where it is a normal number, and 0 beyond. Near 0, where soft-capped logits mostly are, x + x s q(s) with s = (x / c)^2;
 * beyond, with E = exp(-2 |x| / c), tanh(|x| / c) = -(E - 1) / (E + 1) and the slope 4 E / (E + 1)^2, which does not cancel.
 * Infinities pass through, with the slope 0; -0 becomes +0. */
typedef struct {
    v(vec) cap, inverse, inverse_low; /* the last two add up to 1 / c */
} v(cap_scale);

typedef struct {
    v(vec) value, slope;
} v(capped);

static __attribute__((noinline, cold)) v(capped) v(cap_far)(v(vec) x, const v(cap_scale) * p) {
    const v(vec) one = v(set)(1), size = v(abs)(v(fma)(x, p->inverse, v(mul)(x, p->inverse_low)));
    const v(vec) t = v(mul)(v(set)(-2), size), lowest = v(set)(c(TANH_LOWEST));
    const v(exp_parts) part = v(exp_split)(v(max)(lowest, t));
    /* Four times the exponential is normal wherever it is needed, the exponential itself is not. */
    const v(vec) n = v(add)(part.n, v(set)(2)), rise = v(mul)(part.slope, part.reduced);
    const v(vec) scale = v(mul)(v(set)((v(real))0.25), v(power)(n));
    const v(vec) less_one = v(fma)(rise, scale, v(sub)(scale, one)), plus_one = v(add)(v(set)(2), less_one);
    const v(vec) e = v(scale)(v(add)(one, rise), n);
    const v(mask) finite = v(lt)(v(abs)(x), v(set)((v(real))INFINITY));
    const v(vec) value = v(mul)(p->cap, v(copysign)(v(div)(less_one, plus_one), x));
    const v(vec) slope = v(div)(e, v(mul)(plus_one, plus_one));
    return (v(capped)){v(select)(finite, value, x), v(keep)(v(both)(finite, v(nlt)(t, lowest)), slope)};
}

static INLINE v(vec) v(cap_square)(v(vec) x, const v(cap_scale) * p) {
    const v(vec) u = v(mul)(x, p->inverse);
    return v(mul)(u, u);
}

/* `count` vectors at once, in place. */
static INLINE void v(cap)(v(vec) * x, v(vec) * slope, int count, const v(cap_scale) * p) {
    const v(vec) one = v(set)(1), end_of_near = v(set)(c(TANH_NEAR) * c(TANH_NEAR));
    v(vec) value[XENT_SIDE_BY_SIDE], most = v(set)(0);
    for (int j = 0; j < count; ++j) {
        const v(vec) square = v(cap_square)(x[j], p), u = v(mul)(x[j], p->inverse);
        v(vec) q = v(set)(v(tanh_terms)[c(TANH_TERMS) - 1]);
        for (int i = c(TANH_TERMS) - 2; i >= 0; --i)
            q = v(fma)(q, square, v(set)(v(tanh_terms)[i]));
        q = v(mul)(q, square);
        const v(vec) tanh = v(fma)(u, q, u);
        value[j] = v(fma)(x[j], q, x[j]);
        slope[j] = v(fnma)(tanh, tanh, one);
        most = v(max)(square, most);
    }
    if (__builtin_expect(v(any)(v(lt)(end_of_near, most)), 0))
        for (int j = 0; j < count; ++j) {
            const v(capped) far = v(cap_far)(x[j], p);
            const v(mask) is_far = v(lt)(end_of_near, v(cap_square)(x[j], p));
            value[j] = v(select)(is_far, far.value, value[j]);
            slope[j] = v(select)(is_far, far.slope, slope[j]);
        }
    for (int j = 0; j < count; ++j)
        x[j] = value[j];
}
