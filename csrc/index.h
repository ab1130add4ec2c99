/* A class index of any integer type as 64 bits: signed types sign-extended, uint64 as its bits, so that one unsigned
 * comparison with the number of classes rejects everything that is not a class. */
#ifndef XENT_INDEX_H
#define XENT_INDEX_H

#include <stdint.h>
#include <string.h>

#include "xent.h"

#define XENT_INDEX_TYPES(USE)                                                                                               \
    USE(XENT_BOOL, uint8_t)                                                                                                 \
    USE(XENT_I8, int8_t)                                                                                                    \
    USE(XENT_U8, uint8_t)                                                                                                   \
    USE(XENT_I16, int16_t)                                                                                                  \
    USE(XENT_U16, uint16_t)                                                                                                 \
    USE(XENT_I32, int32_t)                                                                                                  \
    USE(XENT_U32, uint32_t)                                                                                                 \
    USE(XENT_I64, int64_t)                                                                                                  \
    USE(XENT_U64, uint64_t)

static inline int64_t xent_load_index(const char *p, int type) {
    switch (type) {
#define XENT_CASE(TYPE, C)                                                                                                  \
    case TYPE: {                                                                                                            \
        C x;                                                                                                                \
        memcpy(&x, p, sizeof x);                                                                                            \
        return (int64_t)x;                                                                                                  \
    }
        XENT_INDEX_TYPES(XENT_CASE)
#undef XENT_CASE
    }
    return -1;
}

/* n of them, `step` bytes apart; the compiler makes vectors of those that lie side by side. */
static inline void xent_load_indices(int64_t *to, const char *from, int64_t step, int64_t n, int type) {
    switch (type) {
#define XENT_CASE(TYPE, C)                                                                                                  \
    case TYPE:                                                                                                              \
        if (step == (int64_t)sizeof(C))                                                                                     \
            for (int64_t i = 0; i < n; ++i) {                                                                               \
                C x;                                                                                                        \
                memcpy(&x, from + i * (int64_t)sizeof(C), sizeof x);                                                        \
                to[i] = (int64_t)x;                                                                                         \
            }                                                                                                               \
        else                                                                                                                \
            for (int64_t i = 0; i < n; ++i)                                                                                 \
                to[i] = xent_load_index(from + i * step, TYPE);                                                             \
        return;
        XENT_INDEX_TYPES(XENT_CASE)
#undef XENT_CASE
    }
}

#endif
