/* A Hugging Face folder's other files: copied as they are, config.json changed only where it must be. */
#pragma once

#include "base/log.h"
#include "base/str.h"

/* Sets a key of the top object of a JSON text to `value` (JSON text; NULL: removes it), keeping every other byte; a key that is absent
 * becomes the first one.  The text must be valid JSON with an object at the top. */
void json_text_set(StrBuf *text, const char *key, const char *value);

/* Copies a folder's files and subfolders byte for byte, but not what exists already in `to`, nor its weights: those
 * that saving writes anew (model*.safetensors, their index) and those in other formats (pytorch_model*.bin,
 * consolidated*, *.gguf, ...), which would be the ones from before; of the latter the log tells.  `to` may not lie inside `from`. */
Status folder_copy_rest(const char *from, const char *to, Log *log, Err *err) MUST_CHECK;

/* Changes keys of DIR/config.json; keys and values as above in turn, with a NULL key at the end. */
Status folder_edit_config(const char *dir, const char *const *keys_values, Err *err) MUST_CHECK;
