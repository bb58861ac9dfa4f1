/* config.json's RoPE: a part of llama_config.c's reading. */
#pragma once

#include "model/json_fields.h"
#include "model/llama.h"

enum { LLAMA_MAX_CONTEXT = 1 << 28 };

/* rope_type, rope_theta and what belongs to them, of the file's own fields.  max_position_embeddings is read already. */
void llama_rope_read(const JsonFields *root, LlamaConfig *c);
