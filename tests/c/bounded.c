/* A program that sends asynchronously and never dispatches does not fill the memory. */
#include "check.h"

static int called;

static void on_ok(void *user, const keepq_sent *sent) {
    (void)user, (void)sent;
    called++;
}

static void one_that_never_dispatches_is_told_in_the_end(void **state) {
    keepq *q = open_quick("bounded");
    keepq_rc rc = KEEPQ_OK;
    int sent;

    (void)state;
    for (sent = 0; rc == KEEPQ_OK && sent < 2 * KEEPQ_MAX_UNDISPATCHED; sent++) {
        rc = keepq_send_async(q, "t", "", 0, NULL, on_ok, NULL, NULL);
    }
    assert_int_equal(rc, KEEPQ_E_FULL);
    SAYS("keepq_dispatch");
    note_error("keepq_send_async", "KEEPQ_E_FULL");
    sent--;
    assert_true(sent >= KEEPQ_MAX_UNDISPATCHED);
    while (keepq_dispatch(q, 0) == KEEPQ_OK) {
    }
    OK(keepq_send_async(q, "t", "", 0, NULL, on_ok, NULL, NULL));
    OK(keepq_close(q));
    assert_int_equal(called, sent + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_never_dispatches_is_told_in_the_end),
    };
    return cmocka_run_group_tests_name("bounded", tests, NULL, NULL);
}
