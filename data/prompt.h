/* A prompt text with {field}s from the config: "Q: {question}\nA: ".  "{{" and "}}" stand for braces.
 *
 * What the config's author wrote may name special tokens ("<|user|>"); what a row puts in may not. */
#pragma once

#include "data/render.h"

typedef struct PromptPart {
    char *text; /* literal text, or the field's name */
    size_t len;
    bool is_field;
    int32_t token; /* >= 0: this token */
} PromptPart;

typedef struct Prompt {
    PromptPart *parts;
    int n;
    bool starts_with_bos;
} Prompt;

Status prompt_parse(Prompt *out, const char *text, const Tokenizer *t, Err *err) MUST_CHECK;
void prompt_clear(Prompt *p);
