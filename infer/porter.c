/* Steps 1a to 5b, each a table of (ending, replacement, condition on what is left): the first ending that fits
 * decides, whether its condition holds or not. */
#include "infer/porter.h"

#include <stdbool.h>
#include <string.h>

typedef struct Word {
    char *s;
    size_t n;
} Word;

static bool is_consonant(const char *s, size_t i)
{
    switch (s[i]) {
    case 'a':
    case 'e':
    case 'i':
    case 'o':
    case 'u':
        return false;
    case 'y': {
        /* y is a consonant behind a vowel and at the start; a run of them alternates. */
        bool c = true;
        size_t first = i;
        while (first > 0 && s[first - 1] == 'y')
            first--;
        if (first > 0) c = !is_consonant(s, first - 1);
        return (i - first) % 2 ? !c : c;
    }
    default:
        return true;
    }
}

/* m of [C](VC)^m[V]: how often a vowel is followed by a consonant. */
static int measure(const char *s, size_t n)
{
    int m = 0;
    bool before = true;
    for (size_t i = 0; i < n; i++) {
        bool c = is_consonant(s, i);
        m += c && !before;
        before = c;
    }
    return m;
}

static bool has_vowel(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_consonant(s, i)) return true;
    return false;
}

static bool ends_double_consonant(const char *s, size_t n)
{
    return n >= 2 && s[n - 1] == s[n - 2] && is_consonant(s, n - 1);
}

/* *o: consonant, vowel, consonant other than w, x, y.  nltk also takes a two-letter vowel, consonant. */
static bool ends_cvc(const char *s, size_t n)
{
    if (n == 2) return !is_consonant(s, 0) && is_consonant(s, 1);
    return n >= 3 && is_consonant(s, n - 3) && !is_consonant(s, n - 2) && is_consonant(s, n - 1) &&
           !strchr("wxy", s[n - 1]);
}

static bool ends(const Word *w, const char *suffix)
{
    size_t k = strlen(suffix);
    return w->n >= k && memcmp(w->s + w->n - k, suffix, k) == 0;
}

/* Puts `to` where the last `k` letters were.  No rule makes a word longer than it was before the step. */
static void replace(Word *w, size_t k, const char *to)
{
    size_t n = strlen(to);
    memcpy(w->s + w->n - k, to, n);
    w->n += n - k;
}

typedef struct Rule {
    const char *suffix, *to;
} Rule;

static bool positive(const char *s, size_t n)
{
    return measure(s, n) > 0;
}

static bool above_one(const char *s, size_t n)
{
    return measure(s, n) > 1;
}

static void apply(Word *w, const Rule *rules, size_t n_rules, bool (*holds)(const char *, size_t))
{
    for (size_t i = 0; i < n_rules; i++) {
        if (!ends(w, rules[i].suffix)) continue;
        size_t k = strlen(rules[i].suffix);
        if (!holds || holds(w->s, w->n - k)) replace(w, k, rules[i].to);
        return;
    }
}

#define APPLY(w, rules, holds) apply(w, rules, sizeof rules / sizeof *rules, holds)

static void step_1a(Word *w)
{
    static const Rule rules[] = {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}};
    if (w->n == 4 && ends(w, "ies")) /* nltk: dies -> die */
        replace(w, 3, "ie");
    else
        APPLY(w, rules, NULL);
}

static void step_1b(Word *w)
{
    if (ends(w, "ied")) { /* nltk: died -> die, spied -> spi */
        replace(w, 3, w->n == 4 ? "ie" : "i");
        return;
    }
    if (ends(w, "eed")) {
        if (positive(w->s, w->n - 3)) replace(w, 3, "ee");
        return;
    }
    size_t k = ends(w, "ed") ? 2 : ends(w, "ing") ? 3 : 0;
    if (k == 0 || !has_vowel(w->s, w->n - k)) return;
    w->n -= k;
    /* What the ending may have swallowed: conflat(ed) -> conflate, hopp(ing) -> hop, fil(ing) -> file. */
    if (ends(w, "at") || ends(w, "bl") || ends(w, "iz")) {
        replace(w, 0, "e");
    } else if (ends_double_consonant(w->s, w->n)) {
        if (!strchr("lsz", w->s[w->n - 1])) w->n--;
    } else if (measure(w->s, w->n) == 1 && ends_cvc(w->s, w->n)) {
        replace(w, 0, "e");
    }
}

static void step_1c(Word *w)
{
    /* nltk: only behind a consonant that is not the first letter (happy -> happi, but enjoy, by). */
    if (w->n > 2 && w->s[w->n - 1] == 'y' && is_consonant(w->s, w->n - 2)) w->s[w->n - 1] = 'i';
}

static void step_2(Word *w)
{
    static const Rule rules[] = {
        {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
        {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
        {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
        {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
        {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
        {"fulli", "ful"},
    };
    /* nltk: "alli" once more from the top, for what then ends in -ational, -tional. */
    while (ends(w, "alli") && positive(w->s, w->n - 4))
        replace(w, 4, "al");
    if (ends(w, "logi")) { /* nltk: the l counts with the stem */
        if (positive(w->s, w->n - 3)) w->n--;
        return;
    }
    APPLY(w, rules, positive);
}

static void step_3(Word *w)
{
    static const Rule rules[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
                                 {"ical", "ic"},  {"ful", ""},   {"ness", ""}};
    APPLY(w, rules, positive);
}

static bool above_one_st(const char *s, size_t n)
{
    return measure(s, n) > 1 && strchr("st", s[n - 1]);
}

static void step_4(Word *w)
{
    static const Rule rules[] = {
        {"al", ""},   {"ance", ""}, {"ence", ""},  {"er", ""},   {"ic", ""},  {"able", ""},
        {"ible", ""}, {"ant", ""},  {"ement", ""}, {"ment", ""}, {"ent", ""}, {"ou", ""},
        {"ism", ""},  {"ate", ""},  {"iti", ""},   {"ous", ""},  {"ive", ""}, {"ize", ""},
    };
    static const Rule ion[] = {{"ion", ""}}; /* no other ending of this step ends so */
    if (ends(w, "ion"))
        APPLY(w, ion, above_one_st);
    else
        APPLY(w, rules, above_one);
}

static void step_5(Word *w)
{
    if (w->s[w->n - 1] == 'e') {
        int m = measure(w->s, w->n - 1);
        if (m > 1 || (m == 1 && !ends_cvc(w->s, w->n - 1))) w->n--;
    }
    if (ends(w, "ll") && measure(w->s, w->n - 1) > 1) w->n--;
}

static const Rule irregular[] = {
    {"skies", "sky"},      {"sky", "sky"},         {"dying", "die"},        {"lying", "lie"},
    {"tying", "tie"},      {"news", "news"},       {"innings", "inning"},   {"inning", "inning"},
    {"outings", "outing"}, {"outing", "outing"},   {"cannings", "canning"}, {"canning", "canning"},
    {"howe", "howe"},      {"proceed", "proceed"}, {"exceed", "exceed"},    {"succeed", "succeed"},
};

size_t porter_stem(char *word, size_t len)
{
    Word w = {word, len};
    for (size_t i = 0; i < sizeof irregular / sizeof *irregular; i++) {
        if (strlen(irregular[i].suffix) != len || memcmp(word, irregular[i].suffix, len)) continue;
        replace(&w, len, irregular[i].to);
        return w.n;
    }
    if (len <= 2) return len;
    step_1a(&w);
    step_1b(&w);
    step_1c(&w);
    step_2(&w);
    step_3(&w);
    step_4(&w);
    step_5(&w);
    return w.n;
}
