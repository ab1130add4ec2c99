/* The part of XLA's foreign function interface that a handler of calls on the CPU needs: the binary interface of
 * xla/ffi/api/c_api.h (OpenXLA, version 0; https://github.com/openxla/xla/blob/main/xla/ffi/api/c_api.h), with its names.
 *
 * Written down here rather than included from jaxlib, so that the build needs no JAX and one binary serves every version:
 * XLA appends to these structs and says in the first field of each how many bytes it knows, and what is here has been so
 * since version 0.0. Later fields are left out. */
#ifndef XENT_XLA_FFI_H
#define XENT_XLA_FFI_H

#include <stddef.h>
#include <stdint.h>

enum { XLA_FFI_API_MAJOR = 0 };

typedef struct XLA_FFI_Extension_Base {
    size_t struct_size;
    int type;
    struct XLA_FFI_Extension_Base *next;
} XLA_FFI_Extension_Base;

enum { XLA_FFI_Extension_Metadata = 1 };

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int major_version;
    int minor_version;
} XLA_FFI_Api_Version;

/* What XLA asks a handler for before it is first called. */
typedef struct {
    size_t struct_size;
    XLA_FFI_Api_Version api_version;
    uint32_t traits;
} XLA_FFI_Metadata;

typedef struct {
    XLA_FFI_Extension_Base base;
    XLA_FFI_Metadata *metadata;
} XLA_FFI_Metadata_Extension;

typedef struct XLA_FFI_Error XLA_FFI_Error;

enum {
    XLA_FFI_Error_Code_INVALID_ARGUMENT = 3,
    XLA_FFI_Error_Code_RESOURCE_EXHAUSTED = 8,
    XLA_FFI_Error_Code_INTERNAL = 13
};

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    const char *message;
    int errc;
} XLA_FFI_Error_Create_Args;

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    XLA_FFI_Api_Version api_version;
    const void *internal_api;
    XLA_FFI_Error *(*XLA_FFI_Error_Create)(XLA_FFI_Error_Create_Args *args);
} XLA_FFI_Api;

/* xla::PrimitiveType */
enum {
    XLA_FFI_DataType_PRED = 1,
    XLA_FFI_DataType_S8 = 2,
    XLA_FFI_DataType_S16 = 3,
    XLA_FFI_DataType_S32 = 4,
    XLA_FFI_DataType_S64 = 5,
    XLA_FFI_DataType_U8 = 6,
    XLA_FFI_DataType_U16 = 7,
    XLA_FFI_DataType_U32 = 8,
    XLA_FFI_DataType_U64 = 9,
    XLA_FFI_DataType_F16 = 10,
    XLA_FFI_DataType_F32 = 11,
    XLA_FFI_DataType_F64 = 12,
    XLA_FFI_DataType_BF16 = 16
};

/* Row-major, unless the call names another layout. */
typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int dtype;
    void *data;
    int64_t rank;
    int64_t *dims;
} XLA_FFI_Buffer;

/* Arguments, or results: buffers, whose type is 1. */
typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int64_t size;
    int *types;
    void **buffers;
} XLA_FFI_Buffers;

typedef struct {
    const char *ptr;
    size_t len;
} XLA_FFI_ByteSpan;

typedef struct {
    int dtype;
    void *value;
} XLA_FFI_Scalar;

enum { XLA_FFI_AttrType_SCALAR = 3, XLA_FFI_AttrType_STRING = 4 };

/* A string is an XLA_FFI_ByteSpan. */
typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    int64_t size;
    int *types;
    XLA_FFI_ByteSpan **names;
    void **attrs;
} XLA_FFI_Attrs;

enum { XLA_FFI_ExecutionStage_EXECUTE = 3 };

typedef struct {
    size_t struct_size;
    XLA_FFI_Extension_Base *extension_start;
    const XLA_FFI_Api *api;
    void *ctx;
    int stage;
    XLA_FFI_Buffers args;
    XLA_FFI_Buffers rets;
    XLA_FFI_Attrs attrs;
} XLA_FFI_CallFrame;

#endif
