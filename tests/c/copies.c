/* Several copies of the library in one process, loaded and unloaded, on one store: each is a member
 * of its own, with its own handles. */
#include "check.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

typedef keepq_rc open_fn(const char *, const keepq_open_opts *, keepq **);
typedef keepq_rc close_fn(keepq *);
typedef keepq_rc send_fn(keepq *, const char *, const void *, size_t, const keepq_send_opts *,
                         keepq_sent *);
typedef keepq_rc group_open_fn(keepq *, const char *, const char *, const keepq_group_opts *,
                               keepq_group **);
typedef keepq_rc receive_fn(keepq_group *, int64_t, keepq_msg **);
typedef keepq_rc msg_fn(keepq_msg *);
typedef keepq_rc group_fn(keepq_group *);
typedef keepq_bytes body_fn(const keepq_msg *);

typedef struct {
    void *library;
    open_fn *open;
    close_fn *close;
    send_fn *send;
    group_open_fn *group_open;
    group_fn *group_close;
    receive_fn *receive;
    body_fn *body;
    msg_fn *ack, *free;
    keepq *q;
    keepq_group *g;
} copy;

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    assert_non_null(found);
    return found;
}

/* C has no cast from data to function pointers: their bytes are the same on every POSIX system. */
#define LOAD(copy, member, name)                                                                   \
    do {                                                                                           \
        void *found = symbol((copy)->library, name);                                               \
        memcpy(&(copy)->member, &found, sizeof found);                                             \
    } while (0)

/* The loader tells libraries apart by their file: a copy of the file is another library. */
static void load(copy *c, const char *name) {
    const char *original = getenv("KEEPQ_LIBRARY"), *path = place(name);
    static char buffer[1 << 16];
    ssize_t got;
    int from, to;

    assert_non_null(original);
    from = open(original, O_RDONLY);
    to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    assert_true(from >= 0 && to >= 0);
    while ((got = read(from, buffer, sizeof buffer)) > 0) {
        assert_true(write(to, buffer, (size_t)got) == got);
    }
    assert_int_equal(got, 0);
    close(from);
    close(to);
    c->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (c->library == NULL) {
        fail_msg("%s", dlerror());
    }
    LOAD(c, open, "keepq_open");
    LOAD(c, close, "keepq_close");
    LOAD(c, send, "keepq_send");
    LOAD(c, group_open, "keepq_group_open");
    LOAD(c, group_close, "keepq_group_close");
    LOAD(c, receive, "keepq_receive");
    LOAD(c, body, "keepq_msg_body");
    LOAD(c, ack, "keepq_ack");
    LOAD(c, free, "keepq_msg_free");
}

/* Receives with this copy and checks that it is this text. */
static void takes(copy *c, const char *text) {
    keepq_msg *m = NULL;
    keepq_bytes body;

    OK(c->receive(c->g, 10000, &m));
    body = c->body(m);
    assert_true(body.len == strlen(text) && memcmp(body.ptr, text, body.len) == 0);
    OK(c->ack(m));
    OK(c->free(m));
}

static void three_copies_share_a_store(void **state) {
    static const char *const names[] = {"copy-1.so", "copy-2.so"};
    keepq *q = open_at("shared", NULL);
    keepq_group *g = group_of(q, "t", "linked");
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_msg *m = NULL;
    copy copies[2];
    int i;

    (void)state;
    for (i = 0; i < 2; i++) {
        char group[32];
        memset(&copies[i], 0, sizeof copies[i]);
        load(&copies[i], names[i]);
        assert_true(copies[i].send != keepq_send);
        OK(copies[i].open(place("shared"), NULL, &copies[i].q));
        snprintf(group, sizeof group, "group-%d", i);
        OK(copies[i].group_open(copies[i].q, "t", group, NULL, &copies[i].g));
    }
    assert_true(copies[0].send != copies[1].send);
    OK(keepq_stats(q, &stats));
    assert_int_equal(stats.members, 3);
    send_text(q, "t", "of the linked one");
    OK(copies[0].send(copies[0].q, "t", "of the first", 12, NULL, NULL));
    OK(copies[1].send(copies[1].q, "t", "of the second", 13, NULL, NULL));
    for (i = 0; i < 2; i++) {
        takes(&copies[i], "of the linked one");
        takes(&copies[i], "of the first");
        takes(&copies[i], "of the second");
    }
    /* Handles of one copy may have the same numbers as those of another; closing is by copy. */
    OK(copies[0].group_close(copies[0].g));
    OK(copies[0].close(copies[0].q));
    OK(keepq_stats(q, &stats));
    assert_int_equal(stats.members, 2);
    OK(copies[1].send(copies[1].q, "t", "again", 5, NULL, NULL));
    for (i = 0; i < 4; i++) {
        OK(keepq_receive(g, 10000, &m));
        OK(keepq_ack(m));
        OK(keepq_msg_free(m));
    }
    OK(copies[1].group_close(copies[1].g));
    OK(copies[1].close(copies[1].q));
    assert_int_equal(dlclose(copies[0].library), 0);
    assert_int_equal(dlclose(copies[1].library), 0);
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

/* After the last close no thread of the library runs, so that it may be unloaded; fork handlers go
 * with it. */
static void it_is_loaded_and_unloaded_again_and_again(void **state) {
    int i;

    (void)state;
    for (i = 0; i < 5; i++) {
        char name[32], text[32];
        copy c;
        memset(&c, 0, sizeof c);
        snprintf(name, sizeof name, "again-%d.so", i);
        snprintf(text, sizeof text, "round %d", i);
        load(&c, name);
        OK(c.open(place("again"), NULL, &c.q));
        OK(c.send(c.q, "t", text, strlen(text), NULL, NULL));
        OK(c.group_open(c.q, "t", "g", NULL, &c.g));
        takes(&c, text);
        OK(c.group_close(c.g));
        OK(c.close(c.q));
        assert_int_equal(dlclose(c.library), 0);
        assert_int_equal(unlink(place(name)), 0);
        /* A fork runs the handlers of what is loaded, and of nothing else. */
        assert_int_equal(system("true"), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_copies_share_a_store),
        cmocka_unit_test(it_is_loaded_and_unloaded_again_and_again),
    };
    return cmocka_run_group_tests_name("copies", tests, NULL, NULL);
}
