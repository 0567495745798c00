/* What the C tests share: checks that say where they failed, a directory to work in, and a note of
 * each error that was seen, which is compared with what keepq.h documents. */
#ifndef KEEPQ_TEST_CHECK_H
#define KEEPQ_TEST_CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keepq.h"

#ifdef __cplusplus
extern "C" {
#endif

/* It does not say so itself. */
#include <cmocka.h>

/* Fails with both codes and the last error when a call gives another than the expected. */
void check_rc(keepq_rc expected, keepq_rc got, const char *call, const char *file, int line);
/* Notes that `function` gave `code`, for the comparison with the header. */
void note_error(const char *function, const char *code);
/* A path of this name in the program's own directory, which is removed when it ends. */
const char *place(const char *name);
/* Opens a store of this name there, with these options or NULL. */
keepq *open_at(const char *name, const keepq_open_opts *opts);
/* Opens one with asynchronous flushes: quick where nothing is asked of the disk. */
keepq *open_quick(const char *name);
keepq_group *group_of(keepq *q, const char *topic, const char *name);
/* Sends a short text, durably or not. */
void send_text(keepq *q, const char *topic, const char *text);
void send_quickly(keepq *q, const char *topic, const char *text);
/* Receives one message, which must come. */
keepq_msg *receive_one(keepq_group *g);
/* Whether the message's body is this text. */
int body_is(const keepq_msg *m, const char *text);
/* Replaces `old` by `new`, of the same length, in every file of the store's log. How often. */
int damage(const char *store, const char *old, const char *new_bytes);

#ifdef __cplusplus
}
#endif

/* The call gives this code. */
#define GIVES(code, call) check_rc((code), (call), #call, __FILE__, __LINE__)
#define OK(call) GIVES(KEEPQ_OK, call)
/* The function, called with these arguments, fails with this error: noted. */
#define REFUSES(function, code, arguments)                                                        \
    do {                                                                                          \
        check_rc((code), function arguments, #function #arguments, __FILE__, __LINE__);           \
        note_error(#function, #code);                                                             \
    } while (0)
/* The last error speaks of this. */
#define SAYS(text) assert_non_null(strstr(keepq_last_message(), (text)))

#endif
