/* The errors of each function that are about what is in the store, and of opening one. */
#include "check.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void what_keeps_a_store_from_being_opened(void **state) {
    keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;
    keepq_error_info info = KEEPQ_ERROR_INFO_INIT;
    keepq *q = (keepq *)&opts;
    FILE *file;

    (void)state;
    opts.create = 0;
    REFUSES(keepq_open, KEEPQ_E_NOT_FOUND, (place("missing"), &opts, &q));
    assert_null(q);
    OK(keepq_last_error(&info));
    assert_true(info.size == sizeof info && info.rc == KEEPQ_E_NOT_FOUND && info.retriable == 0);
    assert_string_equal(info.name, "NotFound");
    assert_string_equal(info.message, keepq_last_message());
    assert_string_equal(info.path, place("missing"));
    assert_non_null(strstr(info.message, "KQ-102"));
    assert_non_null(strstr(keepq_strerror(info.rc), "NotFound"));
    opts.create = 1;
    GIVES(KEEPQ_E_NOT_FOUND, keepq_open(place("no/parent"), &opts, &q));

    OK(keepq_close(open_quick("there")));
    opts.exist_ok = 0;
    REFUSES(keepq_open, KEEPQ_E_ALREADY_EXISTS, (place("there"), &opts, &q));
    opts.exist_ok = 1;
    opts.segment_size = 16 << 20;
    REFUSES(keepq_open, KEEPQ_E_CONFIG_MISMATCH, (place("there"), &opts, &q));
    opts.segment_size = 0;

    file = fopen(place("a file"), "w");
    assert_non_null(file);
    fclose(file);
    REFUSES(keepq_open, KEEPQ_E_NOT_A_STORE, (place("a file"), NULL, &q));
    REFUSES(keepq_open, KEEPQ_E_UNSUPPORTED_FILESYSTEM, ("/dev/shm/keepq-never", NULL, &q));
    assert_int_equal(access("/dev/shm/keepq-never", F_OK), -1);
}

static void a_damaged_superblock_is_told(void **state) {
    keepq *q = NULL;
    char path[4200];
    int fd;

    (void)state;
    OK(keepq_close(open_quick("damaged")));
    snprintf(path, sizeof path, "%s/SUPER", place("damaged"));
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, "xxxxxxxx", 8, 24) == 8);
    close(fd);
    REFUSES(keepq_open, KEEPQ_E_CORRUPT, (place("damaged"), NULL, &q));
    SAYS("SUPER");
}

static void without_descriptors_nothing_opens_and_nothing_is_lost(void **state) {
    keepq_error_info info = KEEPQ_ERROR_INFO_INIT;
    struct rlimit before, none;
    keepq *q = open_quick("descriptors"), *other = NULL;
    keepq_group *g = group_of(q, "t", "g");
    int next = dup(0);

    (void)state;
    send_text(q, "t", "x");
    assert_int_equal(close(next), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = (rlim_t)next;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    REFUSES(keepq_open, KEEPQ_E_STORAGE, (place("another"), NULL, &other));
    OK(keepq_last_error(&info));
    assert_true(info.os_errno != 0 && info.rc == KEEPQ_E_STORAGE);
    REFUSES(keepq_fd, KEEPQ_E_STORAGE, (q));
    REFUSES(keepq_group_fd, KEEPQ_E_STORAGE, (g));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(keepq_fd(q) >= 0 && keepq_group_fd(g) >= 0);
    OK(keepq_msg_free(receive_one(g)));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void a_lease_is_lost_once_and_for_all(void **state) {
    keepq *q = open_quick("leases");
    keepq_group *g = group_of(q, "t", "g");
    char receipt[256];
    keepq_rc each = 0;
    keepq_msg *m;

    (void)state;
    send_text(q, "t", "x");
    m = receive_one(g);
    strcpy(receipt, keepq_msg_receipt(m));
    OK(keepq_ack_receipt(q, receipt));
    REFUSES(keepq_ack, KEEPQ_E_LEASE_LOST, (m));
    REFUSES(keepq_nack, KEEPQ_E_LEASE_LOST, (m, 0));
    REFUSES(keepq_reject, KEEPQ_E_LEASE_LOST, (m, "why"));
    REFUSES(keepq_extend, KEEPQ_E_LEASE_LOST, (m, 1000));
    REFUSES(keepq_ack_many, KEEPQ_E_LEASE_LOST, (&m, 1, &each));
    assert_int_equal(each, KEEPQ_E_LEASE_LOST);
    REFUSES(keepq_ack_receipt, KEEPQ_E_LEASE_LOST, (q, receipt));
    REFUSES(keepq_nack_receipt, KEEPQ_E_LEASE_LOST, (q, receipt, 0));
    REFUSES(keepq_reject_receipt, KEEPQ_E_LEASE_LOST, (q, receipt, "why"));
    REFUSES(keepq_extend_receipt, KEEPQ_E_LEASE_LOST, (q, receipt, 1000));
    REFUSES(keepq_ack_receipt, KEEPQ_E_BAD_RECEIPT, (q, "not a receipt"));
    REFUSES(keepq_nack_receipt, KEEPQ_E_BAD_RECEIPT, (q, "", 0));
    REFUSES(keepq_reject_receipt, KEEPQ_E_BAD_RECEIPT, (q, "kq1", "why"));
    REFUSES(keepq_extend_receipt, KEEPQ_E_BAD_RECEIPT, (q, "kq1-0-0-0-0-0-0", 1000));
    OK(keepq_msg_free(m));
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void what_is_not_there_is_not_found(void **state) {
    keepq *q = open_quick("not found");
    keepq_topic_opts topic_opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group *g = NULL;
    keepq_msg *m;
    size_t n;

    (void)state;
    opts.create = 0;
    REFUSES(keepq_group_open, KEEPQ_E_NOT_FOUND, (q, "t", "g", &opts, &g));
    REFUSES(keepq_browse, KEEPQ_E_NOT_FOUND, (q, "t", 0, &m, 1, &n));
    REFUSES(keepq_topic_configure, KEEPQ_E_NOT_FOUND, (q, "t", &topic_opts));
    REFUSES(keepq_topic_config, KEEPQ_E_NOT_FOUND, (q, "t", &topic_opts));
    REFUSES(keepq_topic_purge, KEEPQ_E_NOT_FOUND, (q, "t", NULL));
    REFUSES(keepq_topic_delete, KEEPQ_E_NOT_FOUND, (q, "t"));
    g = group_of(q, "t", "g");
    REFUSES(keepq_dlq_purge_one, KEEPQ_E_NOT_FOUND, (g, 7));
    OK(keepq_group_close(g));
    opts.create = 1;
    opts.max_attempts = 5;
    REFUSES(keepq_group_open, KEEPQ_E_CONFIG_MISMATCH, (q, "t", "g", &opts, &g));
    SAYS("max_attempts");
    assert_null(g);
    OK(keepq_close(q));
}

static void a_message_that_was_looked_at_cannot_be_settled(void **state) {
    keepq *q = open_quick("looked at");
    keepq_dead_info info = KEEPQ_DEAD_INFO_INIT;
    keepq_msg *m = NULL;
    keepq_rc each = 0;
    size_t n = 0;

    (void)state;
    send_text(q, "t", "x");
    OK(keepq_browse(q, "t", 0, &m, 1, &n));
    assert_int_equal(n, 1);
    REFUSES(keepq_ack, KEEPQ_E_INVALID_ARGUMENT, (m));
    SAYS("not received");
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_nack(m, 0));
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_reject(m, "why"));
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_extend(m, 1));
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_ack_many(&m, 1, &each));
    assert_int_equal(each, KEEPQ_E_INVALID_ARGUMENT);
    assert_null(keepq_msg_receipt(m));
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_msg_dead_info(m, &info));
    OK(keepq_msg_free(m));
    OK(keepq_close(q));
}

static void a_producer_neither_skips_nor_sends_after_another_took_its_name(void **state) {
    keepq *q = open_quick("producers"), *other = open_quick("producers");
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;
    uint64_t next = 99;

    (void)state;
    opts.producer = "loader";
    opts.has_producer_seq = 1;
    opts.producer_seq = 1;
    in.topic = "t";
    in.opts = &opts;
    REFUSES(keepq_send, KEEPQ_E_PRODUCER_GAP, (q, "t", "x", 1, &opts, &sent));
    assert_int_equal(sent.outcome, KEEPQ_OUTCOME_NOT_STORED);
    REFUSES(keepq_send_async, KEEPQ_E_PRODUCER_GAP, (q, "t", "x", 1, &opts, NULL, NULL, NULL));
    REFUSES(keepq_send_batch, KEEPQ_E_PRODUCER_GAP, (q, &in, 1, &sent));
    assert_int_equal(sent.rc, KEEPQ_E_PRODUCER_GAP);
    opts.producer_seq = 0;
    OK(keepq_send(q, "t", "x", 1, &opts, NULL));
    OK(keepq_producer_open(other, "loader", &next));
    assert_int_equal(next, 1);
    opts.producer_seq = 1;
    REFUSES(keepq_send, KEEPQ_E_PRODUCER_FENCED, (q, "t", "x", 1, &opts, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_PRODUCER_FENCED,
            (q, "t", "x", 1, &opts, NULL, NULL, NULL));
    REFUSES(keepq_send_batch, KEEPQ_E_PRODUCER_FENCED, (q, &in, 1, NULL));
    /* Opened again, it may. */
    OK(keepq_producer_open(q, "loader", NULL));
    OK(keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.producer_seq = 2;
    GIVES(KEEPQ_E_PRODUCER_FENCED, keepq_send(other, "t", "x", 1, &opts, NULL));
    /* A topic that was deleted meanwhile is made anew for it, and its numbers go on. */
    OK(keepq_topic_delete(other, "t"));
    OK(keepq_send(q, "t", "x", 1, &opts, &sent));
    assert_true(sent.seq == 0 && sent.duplicate == 0);
    OK(keepq_topic_delete(other, "t"));
    opts.producer_seq = 3;
    OK(keepq_send_async(q, "t", "x", 1, &opts, NULL, NULL, NULL));
    OK(keepq_producer_open(q, "loader", &next));
    assert_int_equal(next, 4);
    OK(keepq_close(other));
    OK(keepq_close(q));
}

static void damage_is_told_and_the_rest_goes_on(void **state) {
    keepq *q = open_at("damage", NULL);
    keepq_group *g = group_of(q, "t", "g"), *dead = group_of(q, "dead", "g");
    keepq_verify_report report = KEEPQ_VERIFY_REPORT_INIT;
    keepq_finding finding[2] = {KEEPQ_FINDING_INIT, KEEPQ_FINDING_INIT};
    keepq_error_info error = KEEPQ_ERROR_INFO_INIT;
    keepq_dead_info info = KEEPQ_DEAD_INFO_INIT;
    keepq_msg *m, *found[4];
    size_t n = 0;

    (void)state;
    send_text(q, "t", "the first of them");
    send_text(q, "t", "to be damaged soon");
    send_text(q, "t", "the last of them");
    send_text(q, "dead", "a dead letter");
    m = receive_one(dead);
    OK(keepq_reject(m, "a reason to be damaged"));
    OK(keepq_msg_free(m));
    OK(keepq_verify(q, &report, finding, 2));
    assert_true(report.damages == 0 && report.messages == 4 && report.files > 1);
    OK(keepq_group_close(g));
    OK(keepq_group_close(dead));
    OK(keepq_close(q));
    assert_int_equal(damage("damage", "to be damaged soon", "TO BE DAMAGED SOON"), 1);
    assert_int_equal(damage("damage", "a reason to be damaged", "A REASON TO BE DAMAGED"), 1);

    q = open_at("damage", NULL);
    REFUSES(keepq_verify, KEEPQ_E_CORRUPT, (q, &report, finding, 2));
    assert_true(report.damages >= 2 && report.findings >= 2);
    assert_true(finding[0].damage == 1 && finding[0].position > 0 && finding[0].reason[0] != 0);
    OK(keepq_last_error(&error));
    assert_true(error.position == (int64_t)finding[0].position);
    assert_non_null(strstr(error.path, finding[0].file));
    OK(keepq_browse(q, "t", 0, found, 4, &n));
    assert_int_equal(n, 3);
    OK(keepq_msg_check(found[0]));
    REFUSES(keepq_msg_check, KEEPQ_E_CORRUPT, (found[1]));
    assert_true(keepq_msg_body(found[1]).ptr == NULL && keepq_msg_seq(found[1]) == 1);
    assert_true(keepq_msg_id(found[1]) == NULL && keepq_msg_sent_at_ms(found[1]) == -1);
    assert_true(body_is(found[2], "the last of them"));
    OK(keepq_msg_free(found[0]));
    OK(keepq_msg_free(found[1]));
    OK(keepq_msg_free(found[2]));

    dead = group_of(q, "dead", "g");
    OK(keepq_dlq_browse(dead, 0, found, 4, &n));
    assert_int_equal(n, 1);
    REFUSES(keepq_msg_dead_info, KEEPQ_E_CORRUPT, (found[0], &info));
    OK(keepq_msg_free(found[0]));
    OK(keepq_group_close(dead));

    g = group_of(q, "t", "g");
    m = receive_one(g);
    assert_true(body_is(m, "the first of them"));
    OK(keepq_msg_free(m));
    m = receive_one(g); /* again, as it was given back */
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    REFUSES(keepq_receive, KEEPQ_E_CORRUPT, (g, 0, &m));
    m = receive_one(g);
    assert_true(body_is(m, "the last of them"));
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_keeps_a_store_from_being_opened),
        cmocka_unit_test(a_damaged_superblock_is_told),
        cmocka_unit_test(without_descriptors_nothing_opens_and_nothing_is_lost),
        cmocka_unit_test(a_lease_is_lost_once_and_for_all),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(a_message_that_was_looked_at_cannot_be_settled),
        cmocka_unit_test(a_producer_neither_skips_nor_sends_after_another_took_its_name),
        cmocka_unit_test(damage_is_told_and_the_rest_goes_on),
    };
    return cmocka_run_group_tests_name("errors", tests, NULL, NULL);
}
