/* keepq.hpp: owners that close what they own, errors as exceptions and as results. */
#include "check.h"

#include "keepq.hpp"

#include <algorithm>

using namespace std::chrono_literals;

static void sends_and_receives(void **) {
    kq::store store(place("basics"));
    kq::send_options opts;
    opts.key = "user-42";
    opts.order_key = "basket-7";
    opts.headers = {{"source", "web"}, {"empty", ""}};
    keepq_sent sent = store.send("orders", std::string_view("he\0lo", 5), opts);
    assert_true(sent.durable == 1 && sent.seq == 0);
    kq::group billing = store.group("orders", "billing");
    std::optional<kq::message> msg = billing.receive(5s);
    assert_true(msg.has_value());
    assert_true(msg->body() == std::string_view("he\0lo", 5) && msg->id() == sent.id);
    assert_true(msg->key() == "user-42" && !msg->tag() && msg->topic() == "orders");
    assert_true(msg->order_key() == "basket-7");
    assert_true(msg->header("source") == "web" && msg->header("empty") == "");
    assert_true(!msg->header("none") && msg->headers().size() == 2);
    assert_true(msg->headers()[0].first == "source" && msg->attempt() == 1);
    assert_true(msg->sent_at() > std::chrono::system_clock::now() - 1h);
    msg->extend(1min);
    msg->ack();
    assert_false(billing.receive(0ms).has_value());
    store.close();
}

static void a_message_that_is_destroyed_unsettled_is_given_back(void **) {
    kq::store store(place("given back"));
    kq::group group = store.group("t", "g");
    store.send("t", "x");
    group.receive(5s);
    std::optional<kq::message> again = group.receive(5s);
    assert_true(again && again->attempt() == 2);
    kq::message moved = std::move(*again);
    assert_null(again->get());
    moved.reject("no good");
    std::vector<kq::message> dead = group.dead_letters();
    assert_true(dead.size() == 1 && dead[0].body() == "x");
    assert_string_equal(dead[0].dead_info().reason, "no good");
    assert_int_equal(group.purge_dead_letters(), 1);
    assert_int_equal(group.stats().dead, 0);
}

static void errors_are_exceptions_or_results(void **) {
    keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;
    opts.create = 0;
    const std::string missing = place("missing");
    bool thrown = false;
    try {
        kq::store store(missing, &opts);
    } catch (const kq::error &e) {
        thrown = e.rc() == KEEPQ_E_NOT_FOUND && e.name() == "NotFound" && e.path() == missing &&
                 std::string(e.what()).find("KQ-102") != std::string::npos && !e.retriable();
    }
    assert_true(thrown);
    kq::result<kq::store> opened = kq::store::try_open(missing, &opts);
    assert_true(!opened && opened.error().rc() == KEEPQ_E_NOT_FOUND);
    kq::store store(place("errors"));
    kq::result<keepq_sent> sent = store.try_send("a/b", "x");
    assert_true(!sent && sent.error().outcome() == KEEPQ_OUTCOME_NOT_STORED);
    sent = store.try_send("t", "x");
    assert_true(bool(sent) && sent.value().seq == 0);
    kq::group group = store.group("t", "g");
    std::optional<kq::message> msg = group.receive(5s);
    msg->ack();
    assert_int_equal(msg->try_ack().error().rc(), KEEPQ_E_LEASE_LOST);
    kq::store nothing;
    assert_int_equal(nothing.try_send("t", "x").error().rc(), KEEPQ_E_BAD_HANDLE);
}

static void callbacks_are_functions_and_may_throw(void **) {
    kq::store store(place("callbacks"));
    int on_disk = 0;
    for (int i = 0; i < 10; i++) {
        store.send_async("t", "x", [&](kq::result<keepq_sent> sent) {
            on_disk += sent.value().durable;
        });
    }
    assert_true(store.fd() >= 0);
    while (on_disk < 10) store.dispatch(10s);
    assert_false(store.dispatch());
    assert_false(bool(store.try_send_async("a/b", "x", [&](auto) { on_disk = -1; })));
    store.send_async("t", "x", [](auto) { throw std::runtime_error("on purpose"); });
    assert_true(store.flush(10s));
    bool thrown = false;
    try {
        while (!store.dispatch(10s)) {
        }
    } catch (const std::runtime_error &e) {
        thrown = std::string(e.what()) == "on purpose";
    }
    assert_true(thrown);
    store.send_async("t", "x", [&](kq::result<keepq_sent> sent) { on_disk += bool(sent); });
    store.send_oneway("t", "y");
    store.close();
    assert_int_equal(on_disk, 11);
}

static void the_rest_of_the_interface(void **) {
    kq::store store(place("rest"));
    assert_int_equal(store.producer_open("loader"), 0);
    kq::send_options opts;
    opts.producer = "loader";
    opts.producer_seq = 0;
    assert_int_equal(store.send("t", "one", opts).duplicate, 0);
    assert_int_equal(store.send("t", "one", opts).duplicate, 1);
    store.send("t", "two");
    std::vector<kq::message> seen = store.browse("t");
    assert_true(seen.size() == 2 && seen[1].body() == "two");
    kq::group group = store.group("t", "g");
    keepq_group_opts change = KEEPQ_GROUP_OPTS_INIT;
    change.max_attempts = 3;
    group.configure(change);
    assert_true(group.fd() >= 0);
    std::vector<kq::message> both = group.receive_batch(10, 5s);
    std::vector<kq::message> more;
    if (both.size() < 2) more = group.receive_batch(10, 5s);
    assert_int_equal(both.size() + more.size(), 2);
    store.ack(std::string(*both[0].receipt()));
    assert_int_equal(both[0].try_nack().error().rc(), KEEPQ_E_LEASE_LOST);
    assert_true(store.stats().groups == 1);
    assert_int_equal(store.purge("t"), 1);
    group.delete_group();
    assert_int_equal(group.try_delete_group().error().rc(), KEEPQ_E_NOT_FOUND);
    store.delete_topic("t");
    assert_int_equal(store.try_delete_topic("t").error().rc(), KEEPQ_E_NOT_FOUND);
    group.close();
}

static void limits_are_given_read_and_changed(void **) {
    kq::store store(place("limits"));
    keepq_topic_opts limits = KEEPQ_TOPIC_OPTS_INIT;
    limits.max_messages = 1;
    store.create_topic("t", limits);
    store.send("t", "x");
    kq::send_options at_once;
    at_once.timeout = 1ms;
    assert_int_equal(store.try_send("t", "y", at_once).error().rc(), KEEPQ_E_FULL);
    limits.max_messages = 2;
    assert_int_equal(store.try_create_topic("t", limits).error().rc(), KEEPQ_E_CONFIG_MISMATCH);
    store.configure_topic("t", limits);
    assert_true(store.topic_config("t").max_messages == 2);
    store.send("t", "y");
    keepq_store_opts all = KEEPQ_STORE_OPTS_INIT;
    all.max_bytes = 3;
    store.configure(all);
    assert_true(store.config().max_bytes == 3);
    kq::group group = store.group("t", "g");
    assert_int_equal(group.config().max_attempts, 16);
}

static void a_damaged_store_is_repaired(void **) {
    const std::string path = place("repaired");
    {
        kq::store store(path);
        store.send("t", "to be damaged soon");
        assert_int_equal(kq::try_repair(path).error().rc(), KEEPQ_E_BUSY);
    }
    assert_int_equal(damage("repaired", "to be damaged soon", "TO BE DAMAGED SOON"), 1);
    kq::repaired would = kq::repair(path, true), did = kq::repair(path);
    assert_true(would.report.damages_before == 1 && did.report.damages_after == 0);
    assert_true(!did.notes.empty() && did.notes.size() == did.report.notes);
    assert_int_equal(did.notes[0].kind, KEEPQ_REPAIR_ACTION);
    assert_true(kq::repair(path, true, 0).notes.empty());
}

int main() {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_and_receives),
        cmocka_unit_test(a_message_that_is_destroyed_unsettled_is_given_back),
        cmocka_unit_test(errors_are_exceptions_or_results),
        cmocka_unit_test(callbacks_are_functions_and_may_throw),
        cmocka_unit_test(the_rest_of_the_interface),
        cmocka_unit_test(limits_are_given_read_and_changed),
        cmocka_unit_test(a_damaged_store_is_repaired),
    };
    return cmocka_run_group_tests_name("cxx", tests, nullptr, nullptr);
}
