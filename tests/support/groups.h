/* Parts of group types (GPTQ, AWQ), which no kernel encodes: drawn as they come from files. */
#pragma once

#include "tensor/quant.h"

/* Codes, scales, zeros and, where columns have an order of their own, the group of each, into the packed bytes at `packed`; draws
 * by `key`.  Scales are positive, zeros inside the range of codes. */
void groups_draw(uint8_t *packed, const QuantPart *q, uint64_t key);
