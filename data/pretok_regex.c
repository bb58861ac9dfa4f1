/* PCRE2 with its compiler to machine code, and the limits set so that a long run of spaces is only slow. */
#include "data/pretok_regex.h"

#include "base/str.h"
#include "data/mapped_text.h"
#include "data/onig_syntax.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>

struct Regex {
    pcre2_code *code;
};

struct RegexScratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static void *got(void *p)
{
    if (!p) give_up("PCRE2: out of memory");
    return p;
}

Status regex_new(Regex **out, const char *pattern, size_t len, Err *err)
{
    StrBuf b = {0};
    Status s = onig_to_pcre2(&b, pattern, len, err);
    if (s != OK) {
        strbuf_clear(&b);
        return s;
    }
    pcre2_compile_context *cc = got(pcre2_compile_context_create(NULL));
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile(
        (PCRE2_SPTR)(b.data ? b.data : ""), b.len,
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, cc);
    pcre2_compile_context_free(cc);
    strbuf_clear(&b);
    if (!re) {
        char reason[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return err_set(err, E_INPUT, "the pattern does not compile: %s", reason);
    }
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without it pcre2_match interprets */
    *out = xmalloc(sizeof **out);
    (*out)->code = re;
    return OK;
}

void regex_free(Regex *re)
{
    if (!re) return;
    pcre2_code_free(re->code);
    free(re);
}

RegexScratch *regex_scratch_new(void)
{
    RegexScratch *s = xmalloc(sizeof *s);
    s->data = got(pcre2_match_data_create(1, NULL));
    s->context = got(pcre2_match_context_create(NULL));
    /* Untouched pages of the stack cost nothing; it grows only for patterns that backtrack deeply. */
    s->stack = got(pcre2_jit_stack_create((size_t)32 << 10, (size_t)64 << 20, NULL));
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    /* A run of spaces as long as a book stays far below; a pattern that would never end does not. */
    pcre2_set_match_limit(s->context, 50000000);
    pcre2_set_heap_limit(s->context, 1 << 20); /* KiB */
    return s;
}

void regex_scratch_free(RegexScratch *s)
{
    if (!s) return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    free(s);
}

static bool search(const Regex *re, RegexScratch *scratch, const char *s, size_t n, size_t from,
                   size_t *start, size_t *end)
{
    int rc = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, scratch->data,
                         scratch->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
        rc = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         scratch->data, scratch->context);
    if (rc < 0) return false;
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(scratch->data);
    *start = v[0];
    *end = v[1];
    return *start <= *end; /* \K in a lookahead could turn them round */
}

bool regex_next(RegexIter *it, const Regex *re, RegexScratch *scratch, const char *s, size_t n,
                size_t *start, size_t *end)
{
    while (it->pos <= n) {
        if (!search(re, scratch, s, n, it->pos, start, end)) return false;
        if (*start != *end || !it->any || it->last_end != *end) {
            it->any = true;
            it->pos = it->last_end = *end;
            return true;
        }
        it->pos += it->pos < n ? char_len(s + it->pos) : 1;
    }
    return false;
}
