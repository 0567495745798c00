#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

void check_rc(keepq_rc expected, keepq_rc got, const char *call, const char *file, int line) {
    if (got != expected) {
        print_error("%s gave %d (%s), expected %d (%s)\n  last error: %s\n", call, (int)got,
                    keepq_strerror(got), (int)expected, keepq_strerror(expected),
                    keepq_last_message());
        _fail(file, line);
    }
}

void note_error(const char *function, const char *code) {
    /* Kept open: some tests leave no descriptors. */
    static int fd = -1;
    const char *path = getenv("KEEPQ_ERRORS_SEEN");
    char line[128];
    int length;

    if (path == NULL) {
        return;
    }
    if (fd < 0) {
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    length = snprintf(line, sizeof line, "%s %s\n", function, code);
    /* One write, appended: programs that run at the same time do not mix their lines. */
    assert_true(fd >= 0 && write(fd, line, (size_t)length) == length);
}

static char directory[2048];
static pid_t owner;

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

static void remove_directory(void) {
    if (getpid() == owner) {
        nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
}

const char *place(const char *name) {
    static char paths[8][4096];
    static unsigned next;
    char *path = paths[next++ % 8];

    if (directory[0] == 0) {
        char *here = getcwd(NULL, 0);
        snprintf(directory, sizeof directory, "%s/keepq-test-XXXXXX", here);
        free(here);
        assert_non_null(mkdtemp(directory));
        owner = getpid();
        atexit(remove_directory);
    }
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

keepq *open_at(const char *name, const keepq_open_opts *opts) {
    keepq *q = NULL;
    OK(keepq_open(place(name), opts, &q));
    assert_non_null(q);
    return q;
}

keepq *open_quick(const char *name) {
    keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;
    opts.flush = KEEPQ_FLUSH_ASYNC;
    return open_at(name, &opts);
}

keepq_group *group_of(keepq *q, const char *topic, const char *name) {
    keepq_group *g = NULL;
    OK(keepq_group_open(q, topic, name, NULL, &g));
    assert_non_null(g);
    return g;
}

void send_text(keepq *q, const char *topic, const char *text) {
    OK(keepq_send(q, topic, text, strlen(text), NULL, NULL));
}

void send_quickly(keepq *q, const char *topic, const char *text) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    opts.flush = KEEPQ_FLUSH_ASYNC;
    OK(keepq_send(q, topic, text, strlen(text), &opts, NULL));
}

keepq_msg *receive_one(keepq_group *g) {
    keepq_msg *m = NULL;
    OK(keepq_receive(g, 60000, &m));
    assert_non_null(m);
    return m;
}

int body_is(const keepq_msg *m, const char *text) {
    keepq_bytes body = keepq_msg_body(m);
    return body.ptr != NULL && body.len == strlen(text) && memcmp(body.ptr, text, body.len) == 0;
}

static int damage_file(const char *path, const char *old, const char *new_bytes) {
    size_t length = strlen(old), size, at;
    int found = 0, fd = open(path, O_RDWR);
    struct stat info;
    char *bytes;

    assert_true(fd >= 0 && fstat(fd, &info) == 0);
    size = (size_t)info.st_size;
    bytes = malloc(size + 1);
    assert_non_null(bytes);
    assert_true(pread(fd, bytes, size, 0) == (ssize_t)size);
    for (at = 0; at + length <= size; at++) {
        if (memcmp(bytes + at, old, length) == 0) {
            assert_true(pwrite(fd, new_bytes, length, (off_t)at) == (ssize_t)length);
            found++;
        }
    }
    free(bytes);
    close(fd);
    return found;
}

int damage(const char *store, const char *old, const char *new_bytes) {
    char log[4200], path[8400];
    struct dirent *entry;
    int found = 0;
    DIR *dir;

    snprintf(log, sizeof log, "%s/log", place(store));
    dir = opendir(log);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot != NULL && strcmp(dot, ".seg") == 0) {
            snprintf(path, sizeof path, "%s/%s", log, entry->d_name);
            found += damage_file(path, old, new_bytes);
        }
    }
    closedir(dir);
    return found;
}
