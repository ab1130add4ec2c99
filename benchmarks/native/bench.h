#ifndef XENT_NATIVE_BENCH_H
#define XENT_NATIVE_BENCH_H

#include "selection.h"

void bench(const selection *s);

#endif
