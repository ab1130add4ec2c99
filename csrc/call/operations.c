/* operations.def as a table. */
#include "operations.h"

#include "kernels/kernel.h"

const operation_traits xent_operations[] = {
#define XENT_OPERATION(NAME, name, family, stream, input, head, form, takes)                                                \
    [XENT_##NAME] = {#name, family, stream, input, XENT_##head, XENT_##form, takes},
#include "operations.def"
};

const unsigned xent_operation_count = sizeof xent_operations / sizeof *xent_operations;

const char *xent_operation_name(xent_operation operation) {
    const operation_traits *traits = xent_traits(operation);
    return traits ? traits->name : NULL;
}
