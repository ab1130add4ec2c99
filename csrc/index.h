/* A class index of any integer type as 64 bits: signed types sign-extended, uint64 as its bits, so that one unsigned
 * comparison with the number of classes rejects everything that is not a class. */
#ifndef XENT_INDEX_H
#define XENT_INDEX_H

#include <stdint.h>
#include <string.h>

#include "xent.h"

static inline int64_t xent_load_index(const char *p, int type) {
#define XENT_CASE(TYPE, C)                                                                                                  \
    case TYPE: {                                                                                                            \
        C x;                                                                                                                \
        memcpy(&x, p, sizeof x);                                                                                            \
        return (int64_t)x;                                                                                                  \
    }
    switch (type) {
        XENT_CASE(XENT_BOOL, uint8_t)
        XENT_CASE(XENT_I8, int8_t)
        XENT_CASE(XENT_U8, uint8_t)
        XENT_CASE(XENT_I16, int16_t)
        XENT_CASE(XENT_U16, uint16_t)
        XENT_CASE(XENT_I32, int32_t)
        XENT_CASE(XENT_U32, uint32_t)
        XENT_CASE(XENT_U64, uint64_t)
    default:
        XENT_CASE(XENT_I64, int64_t)
    }
#undef XENT_CASE
}

#endif
