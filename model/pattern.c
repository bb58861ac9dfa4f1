/* A pattern becomes a tree, the tree a program of a few instructions, and all its states walk the text together
 * (Thompson 1968). */
#include "model/pattern.h"

#include "base/str.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_TEXT = 4096,
    MAX_PROGRAM = 1 << 15,
    MAX_WORK = 1 << 20,
    MAX_DEPTH = 64,
    MAX_REPEAT = 1000
};

/* --- the tree ---------------------------------------------------------------------------------------- */

typedef enum TreeKind { T_EMPTY, T_SET, T_START, T_END, T_EDGE, T_CAT, T_ALT, T_REPEAT } TreeKind;

typedef struct ByteSet {
    uint64_t bits[4];
} ByteSet;

typedef struct Tree {
    TreeKind kind;
    ByteSet set;        /* T_SET */
    struct Tree *a, *b; /* T_CAT, T_ALT; T_REPEAT: a */
    int min, max;       /* T_REPEAT; max -1: no limit */
    struct Tree *all;   /* the parser's list of every node */
} Tree;

typedef struct Parser {
    const char *text, *at;
    Tree *all;
    int depth;
    const char *problem; /* what was not understood, at `at` */
} Parser;

static void set_add(ByteSet *s, unsigned byte)
{
    s->bits[byte >> 6] |= 1ull << (byte & 63);
}

static bool set_has(const ByteSet *s, unsigned byte)
{
    return s->bits[byte >> 6] >> (byte & 63) & 1;
}

static void set_invert(ByteSet *s)
{
    for (int i = 0; i < 4; i++)
        s->bits[i] = ~s->bits[i];
}

static Tree *tree_new(Parser *p, TreeKind kind, Tree *a, Tree *b)
{
    Tree *t = xcalloc(1, sizeof *t);
    t->kind = kind;
    t->a = a;
    t->b = b;
    t->all = p->all;
    p->all = t;
    return t;
}

static void fail(Parser *p, const char *problem)
{
    if (!p->problem) p->problem = problem;
}

static bool is_word(unsigned char c)
{
    return isalnum(c) || c == '_';
}

/* \d \w \s and their opposites; false: c is no class. */
static bool add_class(ByteSet *s, char c)
{
    ByteSet members = {0};
    for (unsigned i = 0; i < 128; i++)
        if ((strchr("dD", c) && i >= '0' && i <= '9') ||
            (strchr("wW", c) && is_word((unsigned char)i)) ||
            (strchr("sS", c) && i && strchr(" \t\n\r\f\v", (int)i)))
            set_add(&members, i);
    if (!c || !strchr("dDwWsS", c)) return false;
    if (isupper((unsigned char)c)) set_invert(&members);
    for (int i = 0; i < 4; i++)
        s->bits[i] |= members.bits[i];
    return true;
}

/* After a backslash: a class into *s (returns -1), or the byte that it stands for (-2: neither). */
static int parse_escape(Parser *p, ByteSet *s)
{
    char c = *p->at;
    if (add_class(s, c)) {
        p->at++;
        return -1;
    }
    if (!c || isalnum((unsigned char)c)) {
        fail(p, "this escape");
        return -2;
    }
    p->at++;
    return (unsigned char)c;
}

static Tree *parse_set(Parser *p)
{
    Tree *t = tree_new(p, T_SET, NULL, NULL);
    bool invert = *p->at == '^';
    p->at += invert;
    for (bool first = true; *p->at != ']' || first; first = false) {
        if (!*p->at) {
            fail(p, "a class without ']'");
            return t;
        }
        int low = (unsigned char)*p->at++;
        if (low == '\\') low = parse_escape(p, &t->set);
        if (low == -2) return t;
        if (low < 0) continue;
        int high = low;
        if (p->at[0] == '-' && p->at[1] && p->at[1] != ']') {
            p->at++;
            high = (unsigned char)*p->at++;
            if (high == '\\') high = parse_escape(p, &t->set);
            if (high < low) {
                fail(p, "this range");
                return t;
            }
        }
        for (int b = low; b <= high; b++)
            set_add(&t->set, (unsigned)b);
    }
    p->at++;
    if (invert) set_invert(&t->set);
    return t;
}

static Tree *parse_alternatives(Parser *p);

static Tree *parse_group(Parser *p)
{
    if (*p->at == '?') {
        if (p->at[1] != ':') {
            fail(p, "this kind of group");
            return tree_new(p, T_EMPTY, NULL, NULL);
        }
        p->at += 2;
    }
    if (++p->depth > MAX_DEPTH) fail(p, "groups this deep");
    Tree *t = p->problem ? tree_new(p, T_EMPTY, NULL, NULL) : parse_alternatives(p);
    p->depth--;
    if (!p->problem && *p->at != ')') fail(p, "a group without ')'");
    if (!p->problem) p->at++;
    return t;
}

static Tree *parse_atom(Parser *p)
{
    char c = *p->at++;
    switch (c) {
    case '(':
        return parse_group(p);
    case '[':
        return parse_set(p);
    case '^':
        return tree_new(p, T_START, NULL, NULL);
    case '$':
        return tree_new(p, T_END, NULL, NULL);
    case '*':
    case '+':
    case '?':
        p->at--;
        fail(p, "a quantifier behind nothing");
        return tree_new(p, T_EMPTY, NULL, NULL);
    default:
        break;
    }
    if (c == '\\' && (*p->at == 'b' || *p->at == 'B')) {
        if (*p->at++ == 'B') fail(p, "\\B");
        return tree_new(p, T_EDGE, NULL, NULL);
    }
    Tree *t = tree_new(p, T_SET, NULL, NULL);
    if (c == '\\') {
        int byte = parse_escape(p, &t->set);
        if (byte >= 0) set_add(&t->set, (unsigned)byte);
    } else if (c == '.') {
        set_add(&t->set, '\n');
        set_invert(&t->set);
    } else {
        set_add(&t->set, (unsigned char)c);
    }
    return t;
}

/* {m}, {m,}, {,n}, {m,n}; anything else is a literal brace, as in Python. */
static bool parse_counts(Parser *p, int *min, int *max)
{
    const char *s = p->at + 1;
    char *end;
    long lo = isdigit((unsigned char)*s) ? strtol(s, &end, 10) : -1;
    if (lo >= 0) s = end;
    long hi = lo;
    if (*s == ',') {
        s++;
        hi = isdigit((unsigned char)*s) ? strtol(s, &end, 10) : -1;
        if (hi >= 0) s = end;
        if (lo < 0 && hi < 0) return false;
        if (lo < 0) lo = 0;
    } else if (lo < 0) {
        return false;
    }
    if (*s != '}') return false;
    if (lo > MAX_REPEAT || hi > MAX_REPEAT || (hi >= 0 && hi < lo)) {
        fail(p, "this count");
        return false;
    }
    p->at = s + 1;
    *min = (int)lo;
    *max = (int)hi;
    return true;
}

static Tree *parse_repeated(Parser *p)
{
    Tree *t = parse_atom(p);
    if (p->problem) return t;
    int min = 0, max = -1;
    if (*p->at == '*') {
        p->at++;
    } else if (*p->at == '+') {
        min = 1;
        p->at++;
    } else if (*p->at == '?') {
        max = 1;
        p->at++;
    } else if (*p->at != '{' || !parse_counts(p, &min, &max)) {
        return t;
    }
    t = tree_new(p, T_REPEAT, t, NULL);
    t->min = min;
    t->max = max;
    if (*p->at == '?') p->at++; /* lazy: the same texts match */
    if (*p->at == '+' || *p->at == '*') fail(p, "a quantifier of a quantifier");
    return t;
}

static Tree *parse_alternatives(Parser *p)
{
    Tree *all = NULL, *one = tree_new(p, T_EMPTY, NULL, NULL);
    while (!p->problem && *p->at && *p->at != ')') {
        if (*p->at != '|') {
            one = tree_new(p, T_CAT, one, parse_repeated(p));
            continue;
        }
        p->at++;
        all = all ? tree_new(p, T_ALT, all, one) : one;
        one = tree_new(p, T_EMPTY, NULL, NULL);
    }
    return all ? tree_new(p, T_ALT, all, one) : one;
}

/* --- the program -------------------------------------------------------------------------------------- */

typedef enum Code { DO_SET, DO_START, DO_END, DO_EDGE, DO_SPLIT, DO_MATCH } Code;

typedef struct Instr {
    Code code;
    ByteSet set;
    int next, other; /* other: DO_SPLIT, -1 for none */
} Instr;

struct Pattern {
    Instr *code;
    int n, cap;
    int start;
    int work; /* trees visited by generate: nothing repeated a million times emits nothing */
};

static bool is_full(const Pattern *p)
{
    return p->n >= MAX_PROGRAM || p->work >= MAX_WORK;
}

static int emit(Pattern *p, Code code, int next, int other)
{
    if (is_full(p)) return p->n; /* pattern_compile refuses it */
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 64;
        p->code = xrealloc(p->code, (size_t)p->cap * sizeof *p->code);
    }
    p->code[p->n] = (Instr){.code = code, .next = next, .other = other};
    return p->n++;
}

/* Emits t so that it goes on to `next`; returns where it begins. */
static int generate(Pattern *p, const Tree *t, int next)
{
    p->work++;
    if (is_full(p)) return next;
    switch (t->kind) {
    case T_EMPTY:
        return next;
    case T_SET: {
        int at = emit(p, DO_SET, next, -1);
        if (at < p->n) p->code[at].set = t->set;
        return at;
    }
    case T_START:
        return emit(p, DO_START, next, -1);
    case T_END:
        return emit(p, DO_END, next, -1);
    case T_EDGE:
        return emit(p, DO_EDGE, next, -1);
    case T_CAT:
        return generate(p, t->a, generate(p, t->b, next));
    case T_ALT: {
        int a = generate(p, t->a, next), b = generate(p, t->b, next);
        return emit(p, DO_SPLIT, a, b);
    }
    case T_REPEAT:
        break;
    }
    if (t->max < 0) {
        int loop = emit(p, DO_SPLIT, -1, next);
        int body = generate(p, t->a, loop);
        if (loop < p->n) p->code[loop].next = body;
        next = loop;
    }
    for (int i = t->min; i < t->max && !is_full(p); i++)
        next = emit(p, DO_SPLIT, generate(p, t->a, next), next);
    for (int i = 0; i < t->min && !is_full(p); i++)
        next = generate(p, t->a, next);
    return next;
}

Status pattern_compile(Pattern **out, const char *text, Err *err)
{
    Parser parser = {.text = text, .at = text};
    if (strlen(text) > MAX_TEXT)
        return err_set(err, E_INPUT, "a pattern of %zu characters is not supported, %d at most",
                       strlen(text), (int)MAX_TEXT);
    Tree *tree = parse_alternatives(&parser);
    if (!parser.problem && *parser.at) parser.problem = "a ')' too many";
    Pattern *p = NULL;
    Status s = OK;
    if (!parser.problem) {
        p = xcalloc(1, sizeof *p);
        p->start = generate(p, tree, emit(p, DO_MATCH, -1, -1));
        if (is_full(p)) parser.problem = "a pattern this large";
    }
    if (parser.problem) {
        s = err_set(err, E_INPUT, "pattern '%.60s', character %td: %s is not supported", text,
                    parser.at - text + 1, parser.problem);
        pattern_free(p);
    } else {
        *out = p;
    }
    for (Tree *t = parser.all, *next; t; t = next) {
        next = t->all;
        free(t);
    }
    return s;
}

void pattern_free(Pattern *p)
{
    if (!p) return;
    free(p->code);
    free(p);
}

/* --- matching ------------------------------------------------------------------------------------------ */

typedef struct States {
    int *list, n;
    int *seen; /* by instruction: the step at which it was added */
    int *todo;
} States;

/* Adds `at` and all that it reaches without reading a byte. */
static void follow(const Pattern *p, States *s, int at, const char *text, size_t pos, size_t len)
{
    int n_todo = 0, step = (int)pos + 1;
    s->todo[n_todo++] = at;
    while (n_todo > 0) {
        at = s->todo[--n_todo];
        if (at < 0 || s->seen[at] == step) continue;
        s->seen[at] = step;
        const Instr *i = &p->code[at];
        bool before = pos > 0 && is_word((unsigned char)text[pos - 1]);
        bool after = pos < len && is_word((unsigned char)text[pos]);
        if (i->code == DO_SET || i->code == DO_MATCH)
            s->list[s->n++] = at;
        else if (i->code == DO_SPLIT || (i->code == DO_START && pos == 0) ||
                 (i->code == DO_END && pos == len) || (i->code == DO_EDGE && before != after))
            s->todo[n_todo++] = i->next;
        if (i->code == DO_SPLIT) s->todo[n_todo++] = i->other;
    }
}

bool pattern_matches(const Pattern *p, const char *text)
{
    size_t len = strlen(text), n = (size_t)p->n;
    States now = {xmalloc(n * sizeof(int)), 0, xcalloc(n, sizeof(int)),
                  xmalloc((2 * n + 2) * sizeof(int))};
    States then = {xmalloc(n * sizeof(int)), 0, now.seen, now.todo};
    follow(p, &now, p->start, text, 0, len);
    for (size_t pos = 0; pos < len; pos++) {
        then.n = 0;
        for (int i = 0; i < now.n; i++) {
            const Instr *in = &p->code[now.list[i]];
            if (in->code == DO_SET && set_has(&in->set, (unsigned char)text[pos]))
                follow(p, &then, in->next, text, pos + 1, len);
        }
        States swap = now;
        now = then;
        then = swap;
    }
    bool match = false;
    for (int i = 0; i < now.n; i++)
        match |= p->code[now.list[i]].code == DO_MATCH;
    free(now.list);
    free(then.list);
    free(now.seen);
    free(now.todo);
    return match;
}
