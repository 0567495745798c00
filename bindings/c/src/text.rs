//! Strings and byte ranges that come from C.

use engine::{Code, Error, Result};
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The error for an argument that may not be NULL.
#[cold]
pub(crate) fn null(what: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("{what} is NULL"))
}

/// The caller's place for a result, set to this value; NULL is refused only by [`place`], so that a
/// bad handle is told first.
///
/// # Safety
/// `ptr` is NULL or a place for a value.
pub(crate) unsafe fn clear<'a, T>(ptr: *mut T, value: T) -> Option<&'a mut T> {
    // SAFETY: the caller's promise.
    let place = unsafe { ptr.as_mut() };
    place.map(|place| {
        *place = value;
        place
    })
}

/// A place that must be there.
pub(crate) fn place<'a, T>(found: Option<&'a mut T>, what: &str) -> Result<&'a mut T> {
    found.ok_or_else(|| null(what))
}

/// A string that must be there.
///
/// # Safety
/// `ptr` is NULL or points to a string that ends with a NUL byte and lives as long as `'a`.
pub(crate) unsafe fn required<'a>(ptr: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    unsafe { optional(ptr, what) }?.ok_or_else(|| null(what))
}

/// A string that may be NULL.
///
/// # Safety
/// As for [`required`].
pub(crate) unsafe fn optional<'a>(ptr: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if ptr.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and the caller promises the rest.
    utf8(unsafe { CStr::from_ptr(ptr) }.to_bytes(), what).map(Some)
}

/// The bytes of a string that must be there, not yet known to be UTF-8.
///
/// # Safety
/// As for [`required`].
#[inline]
pub(crate) unsafe fn unchecked<'a>(ptr: *const c_char, what: &str) -> Result<&'a [u8]> {
    if ptr.is_null() {
        return Err(null(what));
    }
    // SAFETY: not NULL, and the caller promises the rest.
    Ok(unsafe { CStr::from_ptr(ptr) }.to_bytes())
}

pub(crate) fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let text = format!("{what} is not UTF-8 from byte {} on", e.valid_up_to());
        Error::new(Code::InvalidArgument, text)
    })
}

/// A path: any bytes but NUL.
///
/// # Safety
/// As for [`required`].
pub(crate) unsafe fn path<'a>(ptr: *const c_char) -> Result<&'a Path> {
    if ptr.is_null() {
        return Err(null("path"));
    }
    // SAFETY: not NULL, and the caller promises the rest.
    let bytes = unsafe { CStr::from_ptr(ptr) }.to_bytes();
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// A byte range; NULL only with length 0.
///
/// # Safety
/// `ptr` is NULL or points to `len` readable bytes that live, unchanged, as long as `'a`.
#[inline]
pub(crate) unsafe fn bytes<'a>(ptr: *const c_void, len: usize, what: &str) -> Result<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if ptr.is_null() {
        return Err(null(what));
    }
    if isize::try_from(len).is_err() {
        let text = format!("{what} of {len} bytes is longer than memory can be");
        return Err(Error::new(Code::LimitExceeded, text));
    }
    // SAFETY: not NULL, not longer than a slice may be, and the caller promises the rest.
    Ok(unsafe { std::slice::from_raw_parts(ptr.cast::<u8>(), len) })
}
