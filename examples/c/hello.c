/* Sends a message and receives it.
 *
 *     cc hello.c $(pkg-config --cflags --libs keepq) -o hello && ./hello shop.kq
 */
#include <keepq.h>
#include <stdio.h>

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, keepq_last_message());
    return 1;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "shop.kq";
    keepq *q;
    keepq_group *billing;
    keepq_msg *msg;
    keepq_rc rc;

    if (KEEPQ_CHECK_ABI() != KEEPQ_OK) {
        return failed("this libkeepq does not fit the program");
    }
    if (keepq_open(path, NULL, &q) != KEEPQ_OK) {
        return failed("cannot open the store");
    }
    /* When this returns KEEPQ_OK the message is on disk. */
    if (keepq_send(q, "orders", "hello", 5, NULL, NULL) != KEEPQ_OK) {
        return failed("cannot send");
    }
    if (keepq_group_open(q, "orders", "billing", NULL, &billing) != KEEPQ_OK) {
        return failed("cannot open the group");
    }
    while ((rc = keepq_receive(billing, 0, &msg)) == KEEPQ_OK) {
        keepq_bytes body = keepq_msg_body(msg);
        printf("received %.*s, attempt %u\n", (int)body.len, (const char *)body.ptr,
               (unsigned)keepq_msg_attempt(msg));
        if (keepq_ack(msg) != KEEPQ_OK) {
            failed("the message will come again");
        }
        keepq_msg_free(msg);
    }
    if (rc != KEEPQ_EMPTY) {
        failed("cannot receive");
    }
    keepq_group_close(billing);
    return keepq_close(q) == KEEPQ_OK ? 0 : failed("cannot close");
}
