/* Checkpoints that are quantised already: bitsandbytes (nf4, fp4, int8), GPTQ (2, 3, 4, 8 bits; v1 and v2; act-order) and AWQ
 * (gemm), read as frozen bases; their codes are kept as they are (tensor/quant.h), never encoded again. */
#pragma once

#include "autograd/param.h"
#include "base/json.h"
#include "base/log.h"
#include "tensor/safetensors.h"

typedef enum QuantMethod {
    QUANT_METHOD_NONE,
    QUANT_METHOD_BNB,
    QUANT_METHOD_GPTQ,
    QUANT_METHOD_AWQ
} QuantMethod;

/* config.json's quantization_config. */
typedef struct QuantFile {
    QuantMethod method;
    QuantType type;
    bool nested; /* bitsandbytes: double quantisation */
    int64_t
        block; /* bitsandbytes, 4 bits: elements of a scale; QUANT_BLOCK until quant_file_look */
    int bits;  /* GPTQ: 2, 3, 4 or 8 */
    int64_t group; /* GPTQ, AWQ: columns of a scale; -1: all of a row */
    bool ordered;  /* GPTQ: act-order (desc_act) */
    bool less_one; /* GPTQ v1: zeros are stored less one */
    bool symmetric;
} QuantFile;

const char *quant_method_name(QuantMethod m); /* "bitsandbytes", ... */
/* q: the object, or quantize_config.json's root (GPTQ's older place).  What cannot be read exactly is refused by name. */
Status quant_file_read(QuantFile *out, const Json *q, const char *name, Err *err) MUST_CHECK;

/* What no config says but the tensors do: the block size of nf4 and fp4, from the first that has one.  A folder without weights
 * changes nothing. */
Status quant_file_look(QuantFile *f, const char *dir, Err *err) MUST_CHECK;

/* Whether a folder has the matrix `module` in codes.  Only the tensors tell: it has not where MODULE.weight is of a dtype that plain
 * weights have and nothing lies beside it that codes need.  What is not there at all counts as codes: loading says what is missing. */
bool quant_file_has(const QuantFile *f, const SafeTensors *from, const char *module);
/* Bytes of one matrix `module` from the file into a part of q's packed bytes (encoding's order of them). */
Status quant_file_load(const QuantFile *f, Device *d, const Quant *q, int part, const char *module,
                       const SafeTensors *from, const char *dir, Log *log, Err *err) MUST_CHECK;
/* The numbers that they decode to in the compute dtype, as float (rows, cols); the caller frees.  part: type, rows, cols, block and what
 * else describes it, not yet placed.  Takes workspace meanwhile: the codes, and the numbers. */
Status quant_file_decode(float **out, const QuantFile *f, Device *d, const QuantPart *part,
                         const char *module, const SafeTensors *from, const char *dir, Log *log,
                         Err *err) MUST_CHECK;
/* Whether a tensor's name is one of those that such a file has beside or instead of MODULE.weight; the length of MODULE. */
bool quant_file_owns(const QuantFile *f, const char *name, size_t *module_len);
