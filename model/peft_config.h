/* The writing half of adapter_config.json; reading is lora_opts_load. */
#pragma once

#include "base/str.h"
#include "model/lora.h"

/* The text; base: base_model_name_or_path, or NULL. */
void peft_config_write(StrBuf *out, const LoraSet *s, const char *base);
