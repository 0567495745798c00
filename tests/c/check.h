/* What the C tests share: checks that say where they failed, and a fresh store directory. Each test
 * program takes one argument, an empty directory to work in, and ends with "N checks passed". */
#ifndef KEEPQ_TEST_CHECK_H
#define KEEPQ_TEST_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keepq.h"

static int checks_passed;

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: failed: %s\n  last error: %s\n", __FILE__, __LINE__,          \
                    #condition, keepq_last_message());                                            \
            exit(1);                                                                              \
        }                                                                                         \
        checks_passed++;                                                                          \
    } while (0)

/* Checks a return code and shows both when they differ. */
#define CHECK_RC(expected, call)                                                                  \
    do {                                                                                          \
        keepq_rc wanted_ = (expected);                                                            \
        keepq_rc got_ = (call);                                                                   \
        if (got_ != wanted_) {                                                                    \
            fprintf(stderr, "%s:%d: %s gave %d (%s), expected %d (%s)\n  last error: %s\n",       \
                    __FILE__, __LINE__, #call, (int)got_, keepq_strerror(got_), (int)wanted_,     \
                    keepq_strerror(wanted_), keepq_last_message());                               \
            exit(1);                                                                              \
        }                                                                                         \
        checks_passed++;                                                                          \
    } while (0)

static char store_path[4096];

/* The path of the store with this name in the directory the program was given. */
static const char *store_in(int argc, char **argv, const char *name) {
    if (argc != 2 || strlen(argv[1]) + strlen(name) + 2 > sizeof store_path) {
        fprintf(stderr, "usage: %s EMPTY-DIRECTORY\n", argv[0]);
        exit(2);
    }
    sprintf(store_path, "%s/%s", argv[1], name);
    return store_path;
}

static int report(void) {
    printf("%d checks passed\n", checks_passed);
    return 0;
}

#endif
