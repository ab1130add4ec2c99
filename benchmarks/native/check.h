#ifndef XENT_NATIVE_CHECK_H
#define XENT_NATIVE_CHECK_H

#include "selection.h"

int check(const selection *s); /* returns the number of operations that fail */

#endif
