/* Tokens that are found in the text before anything else looks at it: "<|eot_id|>", "<think>". */
#pragma once

#include "data/mapped_text.h"
#include "data/pretok_regex.h"
#include "data/vocab.h"

typedef struct AddedToken {
    char *content;
    size_t n;
    int id;
    bool special;
    bool normalized; /* looked for in the normalized text, in its own normalized form */
    bool single_word, lstrip, rstrip;
} AddedToken;

typedef struct TrieNode {
    uint8_t byte;
    int32_t token;          /* index of the token that ends here, or -1 */
    int32_t child, sibling; /* node, or 0 */
} TrieNode;

typedef struct Trie {
    TrieNode *nodes; /* nodes[0] is the root */
    int32_t n, cap;
    bool starts[256]; /* bytes that a token can start with */
} Trie;

/* Zero-initialise, put, build; added_clear frees. */
typedef struct AddedTokens {
    AddedToken *items;
    int n, cap;
    Vocab index; /* content to its place in items */
    Trie raw, normalized;
    Regex *word;          /* one word character; NULL: no token asks for single_word */
    uint8_t *special_ids; /* by id, up to max_id */
    int max_id;
} AddedTokens;

/* Copies the content.  A token of the same content is replaced. */
void added_put(AddedTokens *a, const AddedToken *token);
const AddedToken *added_find(const AddedTokens *a, const char *content, size_t n);
/* forms[i], n_forms[i]: what items[i] looks like in normalized text; used where .normalized is set. */
void added_build(AddedTokens *a, char *const *forms, const size_t *n_forms);
void added_clear(AddedTokens *a);
bool added_is_special(const AddedTokens *a, int id);

/* The next added token in v, leftmost, the longest of those that start there.  *pos is where to look
 * from (0 at first), *done where the last one ended, white space that it took included. */
typedef struct AddedMatch {
    int id;
    size_t start, stop;
} AddedMatch;
bool added_next(const AddedTokens *a, const Trie *trie, const TextView *v, RegexScratch *scratch,
                bool specials, size_t *pos, size_t done, AddedMatch *m);
