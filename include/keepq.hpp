/* keepq for C++17: keepq.h with owners instead of handles, and exceptions or results instead of
 * return codes. Header only; the namespace is kq. keepq.h is the manual: what is said there of a
 * function holds for the member of the same name.
 *
 *     kq::store store("shop.kq");
 *     store.send("orders", "hello");
 *     kq::group billing = store.group("orders", "billing");
 *     while (std::optional<kq::message> msg = billing.receive(std::chrono::seconds(1))) {
 *         work(msg->body());
 *         msg->ack();                       // destroyed unsettled: given back at once
 *     }
 *
 * Each call comes in two forms: send() throws kq::error, try_send() returns a kq::result, which is
 * true if it succeeded. Owners are movable and close what they own when they are destroyed;
 * close() does it with the error. Views that a message gives are valid as long as the message.
 */
#ifndef KEEPQ_HPP
#define KEEPQ_HPP

#include "keepq.h"

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace kq {

using milliseconds = std::chrono::milliseconds;

/* As a wait: for ever. As the delay of a nack: the group's back-off. */
constexpr milliseconds forever{-1};
constexpr milliseconds backoff{-1};

/* What keepq_error_info tells, kept. what() is its message. */
class error : public std::runtime_error {
public:
    explicit error(const keepq_error_info &info)
        : std::runtime_error(info.message ? info.message : ""), rc_(info.rc),
          os_errno_(info.os_errno), outcome_(info.outcome), retriable_(info.retriable != 0),
          position_(info.position), name_(info.name ? info.name : ""),
          path_(info.path ? info.path : "") {}

    /* The last error of this thread. */
    static error last() {
        keepq_error_info info = KEEPQ_ERROR_INFO_INIT;
        keepq_last_error(&info);
        return error(info);
    }

    keepq_rc rc() const noexcept { return rc_; }
    std::int32_t os_errno() const noexcept { return os_errno_; }
    std::int32_t outcome() const noexcept { return outcome_; }
    bool retriable() const noexcept { return retriable_; }
    std::int64_t position() const noexcept { return position_; }
    const std::string &name() const noexcept { return name_; }
    const std::string &path() const noexcept { return path_; }

private:
    keepq_rc rc_;
    std::int32_t os_errno_, outcome_;
    bool retriable_;
    std::int64_t position_;
    std::string name_, path_;
};

/* A value or an error. */
template <class T>
class [[nodiscard]] result {
public:
    result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    result(kq::error failed) : held_(std::in_place_index<1>, std::move(failed)) {}

    explicit operator bool() const noexcept { return held_.index() == 0; }
    /* The value; throws the error if there is none. */
    T &value() & {
        check();
        return std::get<0>(held_);
    }
    T value() && {
        check();
        return std::move(std::get<0>(held_));
    }
    /* The error, which must be there. */
    const kq::error &error() const { return std::get<1>(held_); }

private:
    void check() const {
        if (!*this) throw error();
    }
    std::variant<T, kq::error> held_;
};

template <>
class [[nodiscard]] result<void> {
public:
    result() = default;
    result(kq::error failed) : failed_(std::move(failed)) {}
    explicit operator bool() const noexcept { return !failed_; }
    void value() const {
        if (failed_) throw *failed_;
    }
    const kq::error &error() const { return failed_.value(); }

private:
    std::optional<kq::error> failed_;
};

namespace detail {

inline result<void> done(keepq_rc rc) {
    if (rc < 0) return error::last();
    return {};
}

inline std::string_view view(keepq_bytes bytes) {
    return {static_cast<const char *>(bytes.ptr), bytes.len};
}

inline std::optional<std::string_view> maybe(const char *text) {
    return text ? std::optional<std::string_view>(text) : std::nullopt;
}

/* Owns a handle. */
template <class H, keepq_rc (*Free)(H *)>
class owner {
public:
    owner() = default;
    explicit owner(H *handle) noexcept : handle_(handle) {}
    owner(owner &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    owner &operator=(owner &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    owner(const owner &) = delete;
    owner &operator=(const owner &) = delete;
    ~owner() {
        if (handle_) Free(handle_);
    }
    /* The C handle, which stays owned. */
    H *get() const noexcept { return handle_; }
    /* The C handle, which is the caller's from now on. */
    H *release() noexcept { return std::exchange(handle_, nullptr); }

private:
    H *handle_ = nullptr;
};

} // namespace detail

/* What a message is sent with, beside its body. What is not set has its default. */
struct send_options {
    std::optional<std::string> key, tag, order_key, producer;
    std::optional<std::uint64_t> producer_seq;
    std::vector<std::pair<std::string, std::string>> headers;
    std::int32_t flush = KEEPQ_FLUSH_DEFAULT;
    std::int32_t when_full = KEEPQ_WHEN_FULL_DEFAULT;
    milliseconds timeout{0};
};

/* A message, received or looked at. One thread at a time. */
class message : public detail::owner<keepq_msg, keepq_msg_free> {
public:
    using owner::owner;

    std::string_view body() const { return detail::view(keepq_msg_body(get())); }
    std::string_view id() const { return detail::maybe(keepq_msg_id(get())).value_or(""); }
    std::string_view topic() const { return detail::maybe(keepq_msg_topic(get())).value_or(""); }
    std::uint64_t seq() const { return keepq_msg_seq(get()); }
    std::uint32_t attempt() const { return keepq_msg_attempt(get()); }
    std::optional<std::string_view> key() const { return detail::maybe(keepq_msg_key(get())); }
    std::optional<std::string_view> tag() const { return detail::maybe(keepq_msg_tag(get())); }
    std::optional<std::string_view> order_key() const {
        return detail::maybe(keepq_msg_order_key(get()));
    }
    std::optional<std::string_view> receipt() const {
        return detail::maybe(keepq_msg_receipt(get()));
    }
    std::optional<std::string_view> header(const std::string &name) const {
        keepq_bytes value = keepq_msg_header(get(), name.c_str());
        return value.ptr ? std::optional(detail::view(value)) : std::nullopt;
    }
    std::vector<std::pair<std::string_view, std::string_view>> headers() const {
        std::vector<std::pair<std::string_view, std::string_view>> all;
        keepq_header one;
        while (keepq_msg_header_at(get(), all.size(), &one) == KEEPQ_OK) {
            all.emplace_back(one.name, detail::view({one.value, one.len}));
        }
        return all;
    }
    std::chrono::system_clock::time_point sent_at() const {
        return std::chrono::system_clock::time_point(milliseconds(keepq_msg_sent_at_ms(get())));
    }
    /* Why it is a dead letter. */
    result<keepq_dead_info> try_dead_info() const {
        keepq_dead_info info = KEEPQ_DEAD_INFO_INIT;
        if (keepq_msg_dead_info(get(), &info) < 0) return error::last();
        return info;
    }
    keepq_dead_info dead_info() const { return try_dead_info().value(); }

    result<void> try_ack() { return detail::done(keepq_ack(get())); }
    result<void> try_nack(milliseconds delay = backoff) {
        return detail::done(keepq_nack(get(), delay.count()));
    }
    result<void> try_reject(const std::string &reason) {
        return detail::done(keepq_reject(get(), reason.c_str()));
    }
    result<void> try_extend(milliseconds lease) {
        return detail::done(keepq_extend(get(), lease.count()));
    }
    void ack() { try_ack().value(); }
    void nack(milliseconds delay = backoff) { try_nack(delay).value(); }
    void reject(const std::string &reason) { try_reject(reason).value(); }
    void extend(milliseconds lease) { try_extend(lease).value(); }
};

namespace detail {

/* Messages that a call hands out into an array. */
template <class Call>
result<std::vector<message>> messages(std::size_t max, Call call) {
    std::vector<keepq_msg *> handles(max);
    std::size_t n = 0;
    if (call(handles.data(), max, &n) < 0) return error::last();
    std::vector<message> out;
    out.reserve(n);
    for (std::size_t i = 0; i < n; i++) out.emplace_back(handles[i]);
    return out;
}

} // namespace detail

/* A consumer group. Any number of threads. */
class group : public detail::owner<keepq_group, keepq_group_close> {
public:
    using owner::owner;

    result<std::optional<message>> try_receive(milliseconds timeout = forever) {
        keepq_msg *msg = nullptr;
        keepq_rc rc = keepq_receive(get(), timeout.count(), &msg);
        if (rc < 0) return error::last();
        return rc == KEEPQ_EMPTY ? std::optional<message>() : std::optional<message>(message(msg));
    }
    std::optional<message> receive(milliseconds timeout = forever) {
        return try_receive(timeout).value();
    }
    result<std::vector<message>> try_receive_batch(std::size_t max, milliseconds timeout) {
        return detail::messages(max, [&](keepq_msg **out, std::size_t cap, std::size_t *n) {
            return keepq_receive_batch(get(), timeout.count(), out, cap, n);
        });
    }
    std::vector<message> receive_batch(std::size_t max, milliseconds timeout) {
        return try_receive_batch(max, timeout).value();
    }
    /* For poll and epoll; see keepq_group_fd. */
    result<int> try_fd() {
        int fd = keepq_group_fd(get());
        return fd < 0 ? result<int>(error::last()) : result<int>(fd);
    }
    int fd() { return try_fd().value(); }
    result<void> try_configure(const keepq_group_opts &opts) {
        return detail::done(keepq_group_configure(get(), &opts));
    }
    void configure(const keepq_group_opts &opts) { try_configure(opts).value(); }
    result<keepq_group_opts> try_config() {
        keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
        if (keepq_group_config(get(), &opts) < 0) return error::last();
        return opts;
    }
    keepq_group_opts config() { return try_config().value(); }
    result<keepq_group_stats> try_stats() {
        keepq_group_stats stats = KEEPQ_GROUP_STATS_INIT;
        if (keepq_group_counters(get(), &stats) < 0) return error::last();
        return stats;
    }
    keepq_group_stats stats() { return try_stats().value(); }
    result<std::vector<message>> try_dead_letters(std::uint64_t from_seq = 0,
                                                  std::size_t max = 100) {
        return detail::messages(max, [&](keepq_msg **out, std::size_t cap, std::size_t *n) {
            return keepq_dlq_browse(get(), from_seq, out, cap, n);
        });
    }
    std::vector<message> dead_letters(std::uint64_t from_seq = 0, std::size_t max = 100) {
        return try_dead_letters(from_seq, max).value();
    }
    result<std::uint64_t> try_purge_dead_letters() {
        std::uint64_t removed = 0;
        if (keepq_dlq_purge(get(), &removed) < 0) return error::last();
        return removed;
    }
    std::uint64_t purge_dead_letters() { return try_purge_dead_letters().value(); }
    /* Deletes the group itself, in the store. */
    result<void> try_delete_group() { return detail::done(keepq_group_delete(get())); }
    void delete_group() { try_delete_group().value(); }
    result<void> try_close() { return detail::done(keepq_group_close(release())); }
    void close() { try_close().value(); }
};

/* What an asynchronous send is told of. */
using sent_callback = std::function<void(result<keepq_sent>)>;

namespace detail {

/* What a callback has thrown; dispatch and close throw it on. Of this thread. */
inline std::exception_ptr &thrown() {
    thread_local std::exception_ptr first;
    return first;
}

inline void call(void *user, result<keepq_sent> became) noexcept {
    std::unique_ptr<sent_callback> callback(static_cast<sent_callback *>(user));
    try {
        (*callback)(std::move(became));
    } catch (...) {
        if (!thrown()) thrown() = std::current_exception();
    }
}

inline void rethrow() {
    if (std::exception_ptr first = std::exchange(thrown(), nullptr)) std::rethrow_exception(first);
}

extern "C" {
inline void keepq_hpp_ok(void *user, const keepq_sent *sent) { call(user, *sent); }
inline void keepq_hpp_err(void *user, const keepq_error_info *info) { call(user, error(*info)); }
}

/* Send options as C has them; they point into the C++ ones. */
class c_options {
public:
    explicit c_options(const send_options &from) {
        for (const auto &[name, value] : from.headers) {
            headers_.push_back({name.c_str(), value.data(), value.size()});
        }
        c.key = from.key ? from.key->c_str() : nullptr;
        c.tag = from.tag ? from.tag->c_str() : nullptr;
        c.order_key = from.order_key ? from.order_key->c_str() : nullptr;
        c.producer = from.producer ? from.producer->c_str() : nullptr;
        c.has_producer_seq = from.producer_seq ? 1 : 0;
        c.producer_seq = from.producer_seq.value_or(0);
        c.headers = headers_.empty() ? nullptr : headers_.data();
        c.n_headers = headers_.size();
        c.flush = from.flush;
        c.when_full = from.when_full;
        c.timeout_ms = from.timeout.count();
    }
    keepq_send_opts c = KEEPQ_SEND_OPTS_INIT;

private:
    std::vector<keepq_header> headers_;
};

} // namespace detail

/* An open store. Any number of threads. */
class store : public detail::owner<keepq, keepq_close> {
public:
    using owner::owner;

    /* Opens, or throws. */
    explicit store(const std::string &path, const keepq_open_opts *opts = nullptr)
        : store(try_open(path, opts).value()) {}
    static result<store> try_open(const std::string &path, const keepq_open_opts *opts = nullptr) {
        keepq *handle = nullptr;
        if (keepq_open(path.c_str(), opts, &handle) < 0) return error::last();
        return store(handle);
    }

    result<keepq_sent> try_send(const std::string &topic, std::string_view body,
                                const send_options &opts = {}) {
        keepq_sent sent = KEEPQ_SENT_INIT;
        const detail::c_options o(opts);
        if (keepq_send(get(), topic.c_str(), body.data(), body.size(), &o.c, &sent) < 0) {
            return error::last();
        }
        return sent;
    }
    keepq_sent send(const std::string &topic, std::string_view body,
                    const send_options &opts = {}) {
        return try_send(topic, body, opts).value();
    }
    /* callback runs once, in dispatch or close; what it throws comes out there. */
    result<void> try_send_async(const std::string &topic, std::string_view body,
                                sent_callback callback, const send_options &opts = {}) {
        auto user = std::make_unique<sent_callback>(std::move(callback));
        const detail::c_options o(opts);
        keepq_rc rc = keepq_send_async(get(), topic.c_str(), body.data(), body.size(), &o.c,
                                       detail::keepq_hpp_ok, detail::keepq_hpp_err, user.get());
        if (rc < 0) return error::last();
        user.release(); /* The call frees it. */
        return {};
    }
    void send_async(const std::string &topic, std::string_view body, sent_callback callback,
                    const send_options &opts = {}) {
        try_send_async(topic, body, std::move(callback), opts).value();
    }
    result<void> try_send_oneway(const std::string &topic, std::string_view body,
                                 const send_options &opts = {}) {
        const detail::c_options o(opts);
        return detail::done(
            keepq_send_oneway(get(), topic.c_str(), body.data(), body.size(), &o.c));
    }
    void send_oneway(const std::string &topic, std::string_view body,
                     const send_options &opts = {}) {
        try_send_oneway(topic, body, opts).value();
    }
    /* Opens a named producer; the number of its next message. */
    result<std::uint64_t> try_producer_open(const std::string &name) {
        std::uint64_t next = 0;
        if (keepq_producer_open(get(), name.c_str(), &next) < 0) return error::last();
        return next;
    }
    std::uint64_t producer_open(const std::string &name) { return try_producer_open(name).value(); }
    /* False: the time was over first. */
    result<bool> try_flush(milliseconds timeout = forever) {
        keepq_rc rc = keepq_flush(get(), timeout.count());
        if (rc < 0) return error::last();
        return rc == KEEPQ_OK;
    }
    bool flush(milliseconds timeout = forever) { return try_flush(timeout).value(); }
    /* Runs callbacks; false: there were none. */
    result<bool> try_dispatch(milliseconds timeout = milliseconds(0)) {
        keepq_rc rc = keepq_dispatch(get(), timeout.count());
        detail::rethrow();
        if (rc < 0) return error::last();
        return rc == KEEPQ_OK;
    }
    bool dispatch(milliseconds timeout = milliseconds(0)) { return try_dispatch(timeout).value(); }
    /* For poll and epoll; see keepq_fd. */
    result<int> try_fd() {
        int fd = keepq_fd(get());
        return fd < 0 ? result<int>(error::last()) : result<int>(fd);
    }
    int fd() { return try_fd().value(); }

    result<kq::group> try_group(const std::string &topic, const std::string &name,
                                const keepq_group_opts *opts = nullptr) {
        keepq_group *handle = nullptr;
        if (keepq_group_open(get(), topic.c_str(), name.c_str(), opts, &handle) < 0) {
            return error::last();
        }
        return kq::group(handle);
    }
    kq::group group(const std::string &topic, const std::string &name,
                    const keepq_group_opts *opts = nullptr) {
        return try_group(topic, name, opts).value();
    }
    /* Makes a topic with limits; of one that is there, those given must be its own. */
    result<void> try_create_topic(const std::string &topic, const keepq_topic_opts &opts) {
        return detail::done(keepq_topic_create(get(), topic.c_str(), &opts));
    }
    void create_topic(const std::string &topic, const keepq_topic_opts &opts) {
        try_create_topic(topic, opts).value();
    }
    result<void> try_configure_topic(const std::string &topic, const keepq_topic_opts &opts) {
        return detail::done(keepq_topic_configure(get(), topic.c_str(), &opts));
    }
    void configure_topic(const std::string &topic, const keepq_topic_opts &opts) {
        try_configure_topic(topic, opts).value();
    }
    result<keepq_topic_opts> try_topic_config(const std::string &topic) {
        keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT;
        if (keepq_topic_config(get(), topic.c_str(), &opts) < 0) return error::last();
        return opts;
    }
    keepq_topic_opts topic_config(const std::string &topic) {
        return try_topic_config(topic).value();
    }
    /* The store's own options. */
    result<void> try_configure(const keepq_store_opts &opts) {
        return detail::done(keepq_configure(get(), &opts));
    }
    void configure(const keepq_store_opts &opts) { try_configure(opts).value(); }
    result<keepq_store_opts> try_config() {
        keepq_store_opts opts = KEEPQ_STORE_OPTS_INIT;
        if (keepq_config(get(), &opts) < 0) return error::last();
        return opts;
    }
    keepq_store_opts config() { return try_config().value(); }
    /* How many messages some group had not settled. */
    result<std::uint64_t> try_purge(const std::string &topic) {
        std::uint64_t purged = 0;
        if (keepq_topic_purge(get(), topic.c_str(), &purged) < 0) return error::last();
        return purged;
    }
    std::uint64_t purge(const std::string &topic) { return try_purge(topic).value(); }
    result<void> try_delete_topic(const std::string &topic) {
        return detail::done(keepq_topic_delete(get(), topic.c_str()));
    }
    void delete_topic(const std::string &topic) { try_delete_topic(topic).value(); }
    result<std::vector<message>> try_browse(const std::string &topic, std::uint64_t from_seq = 0,
                                            std::size_t max = 100) {
        return detail::messages(max, [&](keepq_msg **out, std::size_t cap, std::size_t *n) {
            return keepq_browse(get(), topic.c_str(), from_seq, out, cap, n);
        });
    }
    std::vector<message> browse(const std::string &topic, std::uint64_t from_seq = 0,
                                std::size_t max = 100) {
        return try_browse(topic, from_seq, max).value();
    }
    result<void> try_ack(const std::string &receipt) {
        return detail::done(keepq_ack_receipt(get(), receipt.c_str()));
    }
    void ack(const std::string &receipt) { try_ack(receipt).value(); }
    result<keepq_store_stats> try_stats() {
        keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
        if (keepq_stats(get(), &stats) < 0) return error::last();
        return stats;
    }
    keepq_store_stats stats() { return try_stats().value(); }
    /* Calls back what is left, closes, and tells what went wrong. */
    result<void> try_close() {
        result<void> closed = detail::done(keepq_close(release()));
        detail::rethrow();
        return closed;
    }
    void close() { try_close().value(); }
};

/* What a repair came to: the totals, and the first of its notes. */
struct repaired {
    keepq_repair_report report = KEEPQ_REPAIR_REPORT_INIT;
    std::vector<keepq_repair_note> notes;
};

/* Makes a damaged store usable again; nobody may have it open. */
inline result<repaired> try_repair(const std::string &path, bool dry_run = false,
                                   std::size_t max_notes = 1000) {
    keepq_repair_opts opts = KEEPQ_REPAIR_OPTS_INIT;
    repaired out;
    out.notes.resize(max_notes);
    if (max_notes > 0) out.notes[0].size = sizeof(keepq_repair_note);
    opts.dry_run = dry_run;
    if (keepq_repair(path.c_str(), &opts, &out.report, out.notes.data(), max_notes) < 0) {
        return error::last();
    }
    if (out.report.notes < max_notes) out.notes.resize(std::size_t(out.report.notes));
    return out;
}
inline repaired repair(const std::string &path, bool dry_run = false,
                       std::size_t max_notes = 1000) {
    return try_repair(path, dry_run, max_notes).value();
}

} // namespace kq

#endif /* KEEPQ_HPP */
