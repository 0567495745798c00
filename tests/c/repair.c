/* Checking and repairing stores that nobody has open. */
#include "check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* A store with three messages that its group is owed; the second one is damaged. */
static void make_damaged(const char *name) {
    keepq *q = open_at(name, NULL);
    keepq_group *g = group_of(q, "t", "g");

    send_text(q, "t", "the first of them");
    send_text(q, "t", "to be damaged soon");
    send_text(q, "t", "the last of them");
    OK(keepq_group_close(g));
    OK(keepq_close(q));
    assert_int_equal(damage(name, "to be damaged soon", "TO BE DAMAGED SOON"), 1);
}

static void a_store_in_order_is_left_as_it_is(void **state) {
    keepq_repair_report report = KEEPQ_REPAIR_REPORT_INIT;
    keepq_repair_note note = KEEPQ_REPAIR_NOTE_INIT;
    keepq_verify_report verified = KEEPQ_VERIFY_REPORT_INIT;
    keepq *q = open_at("in order", NULL);

    (void)state;
    send_text(q, "t", "x");
    OK(keepq_close(q));
    report.notes = report.damages_after = 99;
    OK(keepq_repair(place("in order"), NULL, &report, &note, 1));
    assert_true(report.notes == 0 && report.actions == 0 && report.lost_messages == 0);
    assert_true(report.damages_before == 0 && report.damages_after == 0);
    assert_true(report.messages == 1 && report.bytes > 0 && note.kind == 0);
    OK(keepq_verify_path(place("in order"), &verified, NULL, 0));
    assert_true(verified.messages == 1 && verified.damages == 0 && verified.files > 1);
}

/* The notes of a repair of what make_damaged makes. Gives how many files were set aside. */
static int check_notes(const keepq_repair_report *report, const keepq_repair_note *notes) {
    uint64_t i, actions = 0, lost = 0;
    int quarantined = 0;

    assert_true(report->notes > 0 && report->notes <= 16);
    for (i = 0; i < report->notes; i++) {
        const keepq_repair_note *note = &notes[i];
        assert_true(note->size == sizeof *note && note->text[0] != 0 && note->reserved == 0);
        /* In the order of their kinds. */
        assert_true(i == 0 || notes[i - 1].kind <= note->kind);
        if (note->kind == KEEPQ_REPAIR_LOST_MESSAGES) {
            assert_string_equal(note->topic, "t");
            assert_true(note->first_seq == 1 && note->count == 1);
            lost += note->count;
        } else {
            assert_true(note->topic[0] == 0 && note->count == 0 && note->first_seq == 0);
            actions += note->kind == KEEPQ_REPAIR_ACTION;
            quarantined += note->kind == KEEPQ_REPAIR_QUARANTINED;
        }
    }
    assert_true(actions == report->actions && lost == 1 && report->lost_messages == 1);
    assert_true(report->damages_before == 1 && report->damages_after == 0);
    return quarantined;
}

static void what_is_damaged_is_repaired_and_told(void **state) {
    static const char *const whole[] = {"the first of them", "the last of them"};
    keepq_repair_opts opts = KEEPQ_REPAIR_OPTS_INIT;
    keepq_repair_report dry = KEEPQ_REPAIR_REPORT_INIT, report = KEEPQ_REPAIR_REPORT_INIT;
    keepq_repair_note notes[16] = {KEEPQ_REPAIR_NOTE_INIT};
    keepq_verify_report verified = KEEPQ_VERIFY_REPORT_INIT;
    keepq_finding found[4] = {KEEPQ_FINDING_INIT};
    struct {
        keepq_repair_note known;
        char behind[16];
    } wide[2];
    char path[4200];
    int received = 0, told = 0;
    keepq_group *g;
    keepq_msg *m;
    keepq_rc rc;
    keepq *q;

    (void)state;
    make_damaged("damaged");
    REFUSES(keepq_verify_path, KEEPQ_E_CORRUPT, (place("damaged"), &verified, found, 4));
    assert_true(verified.damages == 1 && found[0].damage == 1 && found[0].known == 0);
    /* Only as many notes are written as there is room for, where the size of the first one says. */
    opts.dry_run = 1;
    memset(wide, 7, sizeof wide);
    wide[0].known.size = sizeof wide[0];
    OK(keepq_repair(place("damaged"), &opts, &dry, &wide[0].known, 1));
    assert_true(wide[0].known.kind == KEEPQ_REPAIR_ACTION && wide[0].behind[0] == 7);
    assert_true(dry.notes > 1 && wide[1].known.kind == 0x07070707);
    snprintf(path, sizeof path, "%s/quarantine", place("damaged"));
    assert_int_equal(access(path, F_OK), -1);

    OK(keepq_repair(place("damaged"), NULL, &report, notes, 16));
    assert_true(report.actions == dry.actions && report.lost_messages == dry.lost_messages);
    assert_true(check_notes(&report, notes) > 0);
    snprintf(path, sizeof path, "%s/%s", place("damaged"), notes[report.notes - 1].text);
    assert_int_equal(access(path, F_OK), 0);
    OK(keepq_verify_path(place("damaged"), &verified, found, 4));
    assert_true(verified.damages == 0 && verified.findings == 1);
    assert_true(found[0].damage == 0 && found[0].known == 1);
    OK(keepq_repair(place("damaged"), NULL, &report, NULL, 0));
    assert_int_equal(report.notes, 0);

    /* What is not damaged is delivered, and of the rest the group is told. */
    q = open_at("damaged", NULL);
    g = group_of(q, "t", "g");
    while ((rc = keepq_receive(g, 0, &m)) != KEEPQ_EMPTY) {
        if (rc == KEEPQ_OK) {
            assert_true(received < 2 && body_is(m, whole[received]));
            received++;
            OK(keepq_ack(m));
            OK(keepq_msg_free(m));
        } else {
            check_rc(KEEPQ_E_CORRUPT, rc, "keepq_receive", __FILE__, __LINE__);
            told++;
        }
    }
    assert_true(received == 2 && told > 0);
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void what_cannot_be_repaired_is_told(void **state) {
    keepq_repair_opts opts = KEEPQ_REPAIR_OPTS_INIT;
    keepq_repair_report report = KEEPQ_REPAIR_REPORT_INIT;
    keepq *q = open_quick("busy");
    char path[4200];
    int fd;

    (void)state;
    opts.dry_run = 1;
    REFUSES(keepq_repair, KEEPQ_E_BUSY, (place("busy"), NULL, &report, NULL, 0));
    GIVES(KEEPQ_E_BUSY, keepq_repair(place("busy"), &opts, &report, NULL, 0));
    OK(keepq_verify_path(place("busy"), NULL, NULL, 0));
    send_text(q, "t", "it goes on");
    OK(keepq_close(q));
    OK(keepq_repair(place("busy"), &opts, &report, NULL, 0));

    REFUSES(keepq_repair, KEEPQ_E_NOT_FOUND, (place("missing"), NULL, NULL, NULL, 0));
    REFUSES(keepq_verify_path, KEEPQ_E_NOT_FOUND, (place("missing"), NULL, NULL, 0));
    assert_int_equal(mkdir(place("empty"), 0700), 0);
    REFUSES(keepq_repair, KEEPQ_E_NOT_A_STORE, (place("empty"), NULL, NULL, NULL, 0));
    GIVES(KEEPQ_E_NOT_A_STORE, keepq_repair(place("empty"), &opts, NULL, NULL, 0));
    REFUSES(keepq_verify_path, KEEPQ_E_NOT_A_STORE, (place("empty"), NULL, NULL, 0));
    /* Nothing was made in it. */
    assert_int_equal(rmdir(place("empty")), 0);

    snprintf(path, sizeof path, "%s/SUPER", place("busy"));
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, "xxxxxxxx", 8, 24) == 8);
    close(fd);
    report.notes = 99;
    REFUSES(keepq_repair, KEEPQ_E_CORRUPT, (place("busy"), NULL, &report, NULL, 0));
    SAYS("SUPER");
    assert_int_equal(report.notes, 99);
    GIVES(KEEPQ_E_CORRUPT, keepq_verify_path(place("busy"), NULL, NULL, 0));
}

/* Makes SUPER, as it was read, one of another format version, with the checksum that belongs to it:
 * CRC-32 of all but the last four bytes. */
static void write_version(unsigned char *super, size_t length, unsigned char version) {
    uint32_t sum = 0xffffffff;
    size_t i;
    int bit;

    super[8] = version;
    for (i = 0; i < length - 4; i++) {
        sum ^= super[i];
        for (bit = 0; bit < 8; bit++) {
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
        }
    }
    sum = ~sum;
    for (i = 0; i < 4; i++) {
        super[length - 4 + i] = (unsigned char)(sum >> 8 * i);
    }
}

/* A store that says it was made by a version of which nothing is known. */
static void a_store_of_another_version_is_not_touched(void **state) {
    char path[4200];
    unsigned char super[4096], kept[4096];
    ssize_t length;
    int fd;

    (void)state;
    OK(keepq_close(open_quick("version")));
    snprintf(path, sizeof path, "%s/SUPER", place("version"));
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    length = pread(fd, super, sizeof super, 0);
    assert_int_equal(length, sizeof super);
    write_version(super, sizeof super, 250);
    assert_true(pwrite(fd, super, (size_t)length, 0) == length);
    REFUSES(keepq_repair, KEEPQ_E_INCOMPATIBLE, (place("version"), NULL, NULL, NULL, 0));
    REFUSES(keepq_verify_path, KEEPQ_E_INCOMPATIBLE, (place("version"), NULL, NULL, 0));
    assert_true(pread(fd, kept, sizeof kept, 0) == length);
    assert_memory_equal(super, kept, (size_t)length);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_in_order_is_left_as_it_is),
        cmocka_unit_test(what_is_damaged_is_repaired_and_told),
        cmocka_unit_test(what_cannot_be_repaired_is_told),
        cmocka_unit_test(a_store_of_another_version_is_not_touched),
    };
    return cmocka_run_group_tests_name("repair", tests, NULL, NULL);
}
