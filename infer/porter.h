/* The Porter stemmer as nltk's PorterStemmer runs it in its default mode, NLTK_EXTENSIONS: the one that
 * rouge_score stems with.  It differs from Porter's paper of 1980 ("An algorithm for suffix stripping") in a table
 * of irregular words and in the rules marked below. */
#pragma once

#include <stddef.h>

/* Stems word[0..len) in place and returns the new length, never above len.  Lower-case ASCII letters and digits;
 * digits count as consonants. */
size_t porter_stem(char *word, size_t len);
