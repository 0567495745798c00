/* Sends ten thousand messages without waiting for the disk, and is called back for each.
 *
 *     cc async_sender.c $(pkg-config --cflags --libs keepq) -o async_sender
 *     ./async_sender shop.kq
 */
#include <keepq.h>
#include <stdio.h>

enum { COUNT = 10000 };

typedef struct {
    int on_disk, failed;
} results;

static void sent_ok(void *user, const keepq_sent *sent) {
    results *all = user;
    all->on_disk += sent->durable;
}

static void sent_err(void *user, const keepq_error_info *error) {
    results *all = user;
    all->failed++;
    /* Appended, but not confirmed: after a crash it may be there or not. */
    fprintf(stderr, "%s (outcome %d)\n", error->message, (int)error->outcome);
}

int main(int argc, char **argv) {
    results all = {0, 0};
    char body[32];
    keepq *q;
    int i;

    if (keepq_open(argc > 1 ? argv[1] : "shop.kq", NULL, &q) != KEEPQ_OK) {
        fprintf(stderr, "%s\n", keepq_last_message());
        return 1;
    }
    for (i = 0; i < COUNT; i++) {
        int length = snprintf(body, sizeof body, "message %d", i);
        /* Copied before it returns. It waits only while a thousand are on their way to the disk. */
        if (keepq_send_async(q, "numbers", body, (size_t)length, NULL, sent_ok, sent_err, &all) !=
            KEEPQ_OK) {
            fprintf(stderr, "not sent: %s\n", keepq_last_message());
            all.failed++;
        }
        /* Callbacks run here, in this thread, and nowhere else. */
        keepq_dispatch(q, 0);
    }
    /* Flushes, and runs the callbacks that are left: `all` may go afterwards. */
    if (keepq_close(q) != KEEPQ_OK) {
        fprintf(stderr, "%s\n", keepq_last_message());
    }
    printf("%d messages are on disk, %d failed\n", all.on_disk, all.failed);
    return all.failed == 0 ? 0 : 1;
}
