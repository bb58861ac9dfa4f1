#include "trainer/tokenizer_files.h"

#include "base/fs.h"

#include <stdlib.h>

static const char *const names[] = {"tokenizer.json",
                                    "tokenizer.model",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "added_tokens.json",
                                    "chat_template.jinja",
                                    "vocab.json",
                                    "merges.txt"};

Status tokenizer_files_copy(const char *from, const char *to, Err *err)
{
    if (!path_is_dir(from)) {
        char *dst = path_join(to, path_base(from));
        Status s = file_copy(from, dst, err);
        free(dst);
        return s;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *src = path_join(from, names[i]), *dst = path_join(to, names[i]);
        Status s = path_exists(src) ? file_copy(src, dst, err) : OK;
        free(src);
        free(dst);
        TRY(s);
    }
    return OK;
}
