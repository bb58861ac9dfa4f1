/* Writing a model folder whose blocks' matrices are quantised as bitsandbytes stores them, so that transformers loads it. */
#pragma once

#include "model/llama.h"

/* Reads the plain folder `from` tensor by tensor and writes `out` (must not exist, or be empty): nf4, fp4 (nested or not) or int8,
 * all other tensors and files as they are, quantization_config in config.json.  d: where to encode, an f32 device.  The
 * report tells bits and errors.  E_INPUT, and nothing is written: a tensor of the model, one that is copied included, is missing
 * or has a shape or dtype that does not fit. */
Status quant_write_folder(const char *from, const char *out, const QuantOpts *o, Device *d,
                          Log *log, QuantReport *report, Err *err) MUST_CHECK;

/* The quantised folder `from` as plain bf16 weights in `out`: what its codes decode to.  All quantised at once in d's memory, decoded
 * tensor by tensor. */
Status quant_write_plain(const char *from, const char *out, Device *d, Log *log,
                         Err *err) MUST_CHECK;
