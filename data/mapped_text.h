/* Text on its way through a tokenizer, which remembers where each byte came from: normalisation inserts,
 * drops and replaces characters, and every token must still name its place in the input. */
#pragma once

#include "base/str.h"

/* Text of its own, made by a transformation.  Zero-initialise; mapped_text_clear frees. */
typedef struct MappedText {
    StrBuf s;
    int32_t *from; /* from[i]: input offset of the character that byte i stands for */
    size_t cap;
} MappedText;

void mapped_text_reset(MappedText *t);
void mapped_text_clear(MappedText *t);
void mapped_text_append(MappedText *t, const char *s, size_t n,
                        int32_t from); /* all bytes from one place */

/* A stretch of the input (from == NULL, s[i] is input byte base + i) or of a MappedText. */
typedef struct TextView {
    const char *s; /* valid UTF-8, not NUL-terminated */
    size_t n;
    const int32_t *from;
    int32_t base;
} TextView;

TextView mapped_text_view(const MappedText *t);
TextView view_slice(const TextView *v, size_t a, size_t b); /* bytes [a, b) */
/* Input offset of the character that holds byte i (i == n: of what follows the last character). */
int32_t view_from(const TextView *v, size_t i);
/* Copies bytes [a, b) of v, each with its own place. */
void mapped_text_copy(MappedText *t, const TextView *v, size_t a, size_t b);

/* White_Space of Unicode, which is what \s means to the reference tokenizers. */
bool is_white_space(uint32_t cp);
/* Bytes of the character at s[0..n), n > 0, which is valid UTF-8. */
static inline size_t char_len(const char *s)
{
    unsigned char c = (unsigned char)*s;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}
static inline bool is_char_start(char c)
{
    return ((unsigned char)c & 0xC0) != 0x80;
}

/* A copy with a NUL behind it; s may hold NUL bytes itself. */
char *bytes_dup(const char *s, size_t n);
/* The first place of what[0..m), m > 0, in s[0..n), or NULL. */
const char *bytes_find(const char *s, size_t n, const char *what, size_t m);
/* How many bytes at the end of s[0..n) are the start of a character that is not complete. */
size_t utf8_cut_tail(const char *s, size_t n);

/* GPT-2's alphabet, in which byte-level vocabularies are written: every byte has a visible character
 * of its own (the byte itself where it is visible Latin-1, else U+0100 and up in order). */
uint32_t byte_to_alphabet(uint8_t byte);
int alphabet_to_byte(uint32_t cp); /* -1: not of the alphabet */
