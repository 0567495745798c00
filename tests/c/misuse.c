/* NULL, closed, freed and foreign handles, wrong structs, wrong values: each is an error that says
 * what is wrong, and none a crash. */
#include "check.h"

static void null_handles_are_refused(void) {
    keepq_msg *m = NULL;
    keepq_group *g = NULL;
    size_t n = 0;

    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_close(NULL));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_flush(NULL, 0));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_send(NULL, "t", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_group_open(NULL, "t", "g", NULL, &g));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_group_close(NULL));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_receive(NULL, 0, &m));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_receive_batch(NULL, 0, &m, 1, &n));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_ack(NULL));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_nack(NULL, 0));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_reject(NULL, "r"));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_extend(NULL, 1));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_ack_receipt(NULL, "r"));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_nack_receipt(NULL, "r", 0));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_reject_receipt(NULL, "r", "r"));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_extend_receipt(NULL, "r", 1));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_msg_free(NULL));
    CHECK(strstr(keepq_last_message(), "NULL") != NULL);
    CHECK(keepq_msg_body(NULL).ptr == NULL && keepq_msg_id(NULL) == NULL);
    CHECK(keepq_msg_topic(NULL) == NULL && keepq_msg_key(NULL) == NULL);
    CHECK(keepq_msg_tag(NULL) == NULL && keepq_msg_header(NULL, "h").ptr == NULL);
    CHECK(keepq_msg_receipt(NULL) == NULL && keepq_msg_seq(NULL) == KEEPQ_NO_SEQ);
    CHECK(keepq_msg_attempt(NULL) == 0 && keepq_msg_sent_at_ms(NULL) == -1);
}

/* The values of handles are never followed: any number at all may be passed. */
static void invented_handles_are_refused(keepq *q) {
    static const uintptr_t values[] = {1,      2,          3,           4,
                                       0x1001, 0x10000003, UINTPTR_MAX, UINTPTR_MAX - 1};
    size_t i;

    for (i = 0; i < sizeof values / sizeof *values; i++) {
        if (values[i] != (uintptr_t)q) {
            CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_close((keepq *)values[i]));
        }
        CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_group_close((keepq_group *)values[i]));
        CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_msg_free((keepq_msg *)values[i]));
    }
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_msg_free((keepq_msg *)(void *)q));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_group_close((keepq_group *)(void *)q));
    CHECK_RC(KEEPQ_OK, keepq_flush(q, 10000));
}

static void null_arguments_are_refused(keepq *q, keepq_group *g, keepq_msg *m) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_header header = {NULL, "v", 1};
    keepq_group *other = NULL;
    keepq *none = NULL;
    size_t n;

    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_open(NULL, NULL, &none));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_open("x", NULL, NULL));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, NULL, "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "t", NULL, 1, NULL, NULL));
    CHECK_RC(KEEPQ_E_LIMIT_EXCEEDED, keepq_send(q, "t", "x", (size_t)-1, NULL, NULL));
    opts.n_headers = 1;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.headers = &header;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "t", "x", 1, &opts, NULL));
    header.name = "h";
    header.value = NULL;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.n_headers = (size_t)-1;
    CHECK_RC(KEEPQ_E_LIMIT_EXCEEDED, keepq_send(q, "t", "x", 1, &opts, NULL));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_group_open(q, NULL, "g", NULL, &other));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_group_open(q, "t", NULL, NULL, &other));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_group_open(q, "t", "g", NULL, NULL));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_receive(g, 0, NULL));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_receive_batch(g, 0, NULL, 1, &n));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_receive_batch(g, 0, &m, 1, NULL));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_receive_batch(g, 0, &m, 0, &n));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_ack_receipt(q, NULL));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_reject(m, NULL));
    CHECK(keepq_msg_header(m, NULL).ptr == NULL);
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_last_error(NULL));
}

static void wrong_values_are_refused(keepq *q, keepq_group *g, keepq_msg *m) {
    keepq_open_opts open = KEEPQ_OPEN_OPTS_INIT;
    keepq_send_opts send = KEEPQ_SEND_OPTS_INIT;
    keepq_group_opts group = KEEPQ_GROUP_OPTS_INIT;
    keepq_group *other = NULL;
    keepq_msg *none = NULL;
    keepq *store = NULL;

    open.create = 2;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_open("x", &open, &store));
    open.create = 1;
    open.flush = 9;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_open("x", &open, &store));
    send.flush = -1;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "t", "x", 1, &send, NULL));
    group.start = 7;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_group_open(q, "t", "g", &group, &other));
    group.start = 0;
    group.lease_ms = -5;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_group_open(q, "t", "g", &group, &other));
    CHECK(other == NULL);
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_receive(g, -2, &none));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_nack(m, -2));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_extend(m, -1));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_flush(q, -2));
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "\xff", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_E_INVALID_NAME, keepq_send(q, "", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_E_INVALID_NAME, keepq_send(q, "a/b", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_E_INVALID_NAME, keepq_group_open(q, "t", "%x", NULL, &other));
}

static void what_this_version_lacks_is_refused_by_name(keepq *q) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;

    opts.delay_ms = 1;
    CHECK_RC(KEEPQ_E_NOT_SUPPORTED, keepq_send(q, "t", "x", 1, &opts, &sent));
    CHECK(strstr(keepq_last_message(), "delay_ms") != NULL);
    CHECK(sent.rc == KEEPQ_E_NOT_SUPPORTED && sent.outcome == KEEPQ_OUTCOME_NOT_STORED);
    CHECK(sent.status == KEEPQ_SEND_FAILED && sent.id[0] == 0 && sent.seq == KEEPQ_NO_SEQ);
    opts.delay_ms = 0;
    opts.order_key = "k";
    CHECK_RC(KEEPQ_E_NOT_SUPPORTED, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.order_key = NULL;
    opts.priority = 9;
    CHECK_RC(KEEPQ_E_NOT_SUPPORTED, keepq_send(q, "t", "x", 1, &opts, NULL));
}

static void structs_of_other_ages_work_or_are_refused(keepq *q) {
    struct {
        keepq_send_opts known;
        int64_t unknown;
    } newer;
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;

    memset(&newer, 0, sizeof newer);
    newer.known.size = sizeof newer;
    CHECK_RC(KEEPQ_OK, keepq_send(q, "ages", "x", 1, &newer.known, NULL));
    newer.unknown = 1;
    CHECK_RC(KEEPQ_E_INCOMPATIBLE, keepq_send(q, "ages", "x", 1, &newer.known, NULL));
    /* An older program knows no more than the size; what lies behind is not read. */
    opts.size = sizeof(size_t);
    opts.flush = 99;
    CHECK_RC(KEEPQ_OK, keepq_send(q, "ages", "x", 1, &opts, NULL));
    opts.size = 0;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "ages", "x", 1, &opts, NULL));
    CHECK(strstr(keepq_last_message(), "KEEPQ_SEND_OPTS_INIT") != NULL);
    sent.size = 2 * sizeof(size_t);
    sent.durable = 77;
    CHECK_RC(KEEPQ_OK, keepq_send(q, "ages", "x", 1, NULL, &sent));
    CHECK(sent.seq == 2 && sent.durable == 77 && sent.size == 2 * sizeof(size_t));
    /* A result that cannot be written is found before the message is sent. */
    sent.size = 1;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_send(q, "ages", "x", 1, NULL, &sent));
    sent.size = sizeof sent;
    CHECK_RC(KEEPQ_OK, keepq_send(q, "ages", "x", 1, NULL, &sent));
    CHECK(sent.seq == 3);
    CHECK_RC(KEEPQ_E_INCOMPATIBLE, keepq_check_abi(KEEPQ_VERSION + 0x100));
    CHECK_RC(KEEPQ_OK, keepq_check_abi(KEEPQ_VERSION + 1));
}

static void an_error_says_what_and_where(const char *missing) {
    keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;
    keepq_error_info info = KEEPQ_ERROR_INFO_INIT;
    keepq *q = (keepq *)&opts;

    opts.create = 0;
    CHECK_RC(KEEPQ_E_NOT_FOUND, keepq_open(missing, &opts, &q));
    CHECK(q == NULL);
    CHECK_RC(KEEPQ_OK, keepq_last_error(&info));
    CHECK(info.size == sizeof info && info.rc == KEEPQ_E_NOT_FOUND && info.retriable == 0);
    CHECK(strcmp(info.name, "NotFound") == 0);
    CHECK(strcmp(info.message, keepq_last_message()) == 0);
    CHECK(strstr(info.message, missing) != NULL && strstr(info.message, "KQ-102") != NULL);
    CHECK(strstr(keepq_strerror(info.rc), "NotFound") != NULL);
    info.size = 3;
    CHECK_RC(KEEPQ_E_INVALID_ARGUMENT, keepq_last_error(&info));
}

static void closed_and_freed_handles_are_refused(keepq *q, keepq_group *g, keepq_msg *m) {
    keepq_msg *other = NULL;

    CHECK_RC(KEEPQ_OK, keepq_msg_free(m));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_msg_free(m));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_ack(m));
    CHECK(keepq_msg_body(m).ptr == NULL);
    /* The place in the table is used again; the old handle stays a bad one. */
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &other));
    CHECK(other != m);
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_ack(m));

    CHECK_RC(KEEPQ_OK, keepq_close(q));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_close(q));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_send(q, "t", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_E_CLOSED, keepq_ack(other));
    CHECK_RC(KEEPQ_OK, keepq_msg_free(other));
    CHECK_RC(KEEPQ_E_CLOSED, keepq_receive(g, 0, &other));
    CHECK_RC(KEEPQ_OK, keepq_group_close(g));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_group_close(g));
    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_receive(g, 0, &other));
}

int main(int argc, char **argv) {
    keepq *q = NULL;
    keepq_group *g = NULL;
    keepq_msg *m = NULL;
    keepq_error_info info = KEEPQ_ERROR_INFO_INIT;

    CHECK_RC(KEEPQ_OK, keepq_last_error(&info));
    CHECK(info.rc == KEEPQ_OK && keepq_last_message()[0] == 0);
    null_handles_are_refused();
    an_error_says_what_and_where(store_in(argc, argv, "missing"));

    CHECK_RC(KEEPQ_OK, keepq_open(store_in(argc, argv, "store"), NULL, &q));
    invented_handles_are_refused(q);
    CHECK_RC(KEEPQ_OK, keepq_send(q, "misuse", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_OK, keepq_group_open(q, "misuse", "g", NULL, &g));
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
    null_arguments_are_refused(q, g, m);
    wrong_values_are_refused(q, g, m);
    what_this_version_lacks_is_refused_by_name(q);
    structs_of_other_ages_work_or_are_refused(q);
    closed_and_freed_handles_are_refused(q, g, m);
    return report();
}
