//! Structs that begin with their size, so that programs and libraries of different age agree.
//!
//! The library reads and writes the first min(caller's size, own size) bytes. Fields the caller
//! does not have keep their defaults; fields the library does not have must be zero, else the
//! caller asks for something this library would silently not do.

use engine::{Code, Error, Result};
use std::mem::{align_of, size_of};

/// A struct of the interface that begins with `size_t size`.
///
/// # Safety
/// The type is `repr(C)`, its first field is the `size_t` size, and every bit pattern is a valid
/// value of it.
pub(crate) unsafe trait SizedStruct: Copy {
    /// Its name in the header, and so the stem of its `_INIT` macro.
    const NAME: &'static str;
    /// What the `_INIT` macro gives.
    const INIT: Self;
}

/// All zero but the size.
macro_rules! zeroed_struct {
    ($name:ident) => {
        // SAFETY: repr(C), size first; integers and arrays of them.
        unsafe impl $crate::sized::SizedStruct for $name {
            const NAME: &'static str = stringify!($name);
            const INIT: Self = Self {
                size: size_of::<Self>(),
                // SAFETY: zero is a value of every integer.
                ..unsafe { std::mem::zeroed() }
            };
        }
    };
}

pub(crate) use zeroed_struct;

/// No struct of the interface will ever be this large: a greater size is an uninitialized one.
const LARGEST: usize = 4096;

fn check_size<T: SizedStruct>(size: usize) -> Result<usize> {
    // A size that is no multiple of the alignment would cut a field in two.
    if size < size_of::<usize>() || size > LARGEST || size % align_of::<T>() != 0 {
        let macro_name = T::NAME.to_uppercase();
        let text = format!(
            "the size of {} is {size}; start it with {macro_name}_INIT or set size to sizeof({})",
            T::NAME,
            T::NAME
        );
        return Err(Error::new(Code::InvalidArgument, text));
    }
    Ok(size.min(size_of::<T>()))
}

/// A copy of the caller's options, with defaults where there is no pointer or no such field.
///
/// # Safety
/// `from` is NULL or points to as many readable bytes as its first `size_t` says (at least that
/// one).
pub(crate) unsafe fn read<T: SizedStruct>(from: *const T) -> Result<T> {
    if from.is_null() {
        return Ok(T::INIT);
    }
    // SAFETY: the caller vouches for the size field.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    // SAFETY: the caller's promise.
    unsafe { read_as(from.cast(), size) }
}

/// # Safety
/// `bytes` points to `size` readable bytes.
unsafe fn read_as<T: SizedStruct>(bytes: *const u8, size: usize) -> Result<T> {
    let mut value = T::INIT;
    let known = check_size::<T>(size)?;
    // SAFETY: `known` is at most the caller's size, for which the caller vouches, and at most our
    // own; any bytes make a valid T.
    unsafe { bytes.copy_to_nonoverlapping((&raw mut value).cast::<u8>(), known) };
    for at in known..size {
        // SAFETY: `at` is below the caller's size.
        if unsafe { bytes.add(at).read() } != 0 {
            let text = format!(
                "{} has a field at byte {at} set that this library does not know; \
                 the program was compiled with a newer keepq.h",
                T::NAME
            );
            return Err(Error::new(Code::Incompatible, text));
        }
    }
    Ok(value)
}

/// Writes a result into the caller's struct, as much of it as there is; its size stays. NULL is
/// fine: the caller does not want it.
///
/// # Safety
/// `to` is NULL or points to as many writable bytes as its first `size_t` says (at least that one).
pub(crate) unsafe fn write<T: SizedStruct>(to: *mut T, value: &T) -> Result<()> {
    if to.is_null() {
        return Ok(());
    }
    // SAFETY: the caller vouches for the size field.
    let size = unsafe { to.cast::<usize>().read_unaligned() };
    let known = check_size::<T>(size)?;
    // SAFETY: the caller has at least `known` bytes.
    unsafe { write_as(to.cast(), known, value) };
    Ok(())
}

/// Everything but the size.
///
/// # Safety
/// `to` points to `known` writable bytes, at most as many as a T has.
unsafe fn write_as<T: SizedStruct>(to: *mut u8, known: usize, value: &T) {
    let skip = size_of::<usize>();
    let from = (&raw const *value).cast::<u8>();
    // SAFETY: both sides have at least `known` bytes and are distinct objects.
    unsafe {
        from.add(skip)
            .copy_to_nonoverlapping(to.add(skip), known - skip)
    };
}

/// Whether the caller's result struct can be written, before anything is done that it would report.
///
/// # Safety
/// As for [`write`].
pub(crate) unsafe fn check_out<T: SizedStruct>(to: *const T) -> Result<()> {
    if !to.is_null() {
        // SAFETY: the caller vouches for the size field.
        check_size::<T>(unsafe { to.cast::<usize>().read_unaligned() })?;
    }
    Ok(())
}

/// The caller's array of structs: the size of its first one is that of all.
pub(crate) struct Array<T> {
    first: *mut T,
    stride: usize,
    len: usize,
}

impl<T: SizedStruct> Array<T> {
    /// None for NULL.
    ///
    /// # Safety
    /// `first` is NULL or points to `len` structs, each as long as the first one's size says, that
    /// are valid while this lives.
    pub(crate) unsafe fn new(first: *mut T, len: usize) -> Result<Option<Self>> {
        if first.is_null() {
            return Ok(None);
        }
        let mut stride = size_of::<T>();
        if len > 0 {
            // SAFETY: the caller vouches for the size field of the first of them.
            stride = unsafe { first.cast::<usize>().read_unaligned() };
            check_size::<T>(stride)?;
        }
        let fits = stride.checked_mul(len).map(isize::try_from);
        if !matches!(fits, Some(Ok(_))) {
            let text = format!("{len} of {} are more than memory can hold", T::NAME);
            return Err(Error::new(Code::LimitExceeded, text));
        }
        Ok(Some(Self { first, stride, len }))
    }

    fn at(&self, index: usize) -> *mut u8 {
        assert!(index < self.len, "an index within the array");
        // SAFETY: within the caller's array, which is not longer than memory can be.
        unsafe { self.first.cast::<u8>().add(index * self.stride) }
    }

    /// A copy of one of them.
    pub(crate) fn read(&self, index: usize) -> Result<T> {
        // SAFETY: the place has `stride` bytes, says the caller of `new`.
        unsafe { read_as(self.at(index), self.stride) }
    }

    /// Writes one of them, its size included, so that each can be used alone.
    pub(crate) fn write(&self, index: usize, value: &T) {
        let at = self.at(index);
        let known = self.stride.min(size_of::<T>());
        // SAFETY: the place has `stride` bytes, says the caller of `new`.
        unsafe {
            at.cast::<usize>().write_unaligned(self.stride);
            write_as(at, known, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Options {
        size: usize,
        a: i64,
        b: i64,
    }

    // SAFETY: repr(C), size first, integers only.
    unsafe impl SizedStruct for Options {
        const NAME: &'static str = "options";
        const INIT: Self = Self {
            size: size_of::<Self>(),
            a: 7,
            b: 8,
        };
    }

    fn read_words(words: &[usize]) -> Result<Options> {
        // SAFETY: each test passes at least as many words as the first one says.
        unsafe { read(words.as_ptr().cast::<Options>()) }
    }

    #[test]
    fn missing_fields_keep_defaults_and_unknown_ones_must_be_zero() {
        // SAFETY: NULL is allowed.
        let none: Options = unsafe { read(std::ptr::null()) }.unwrap();
        assert_eq!((none.a, none.b), (7, 8));
        let old = read_words(&[16, 1]).unwrap();
        assert_eq!((old.a, old.b), (1, 8));
        let same = read_words(&[24, 1, 2]).unwrap();
        assert_eq!((same.a, same.b), (1, 2));
        assert_eq!(read_words(&[32, 1, 2, 0]).unwrap().b, 2);
        let newer = read_words(&[32, 1, 2, 1]);
        assert_eq!(newer.err().map(|e| e.code()), Some(Code::Incompatible));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [0, 7, 12, 4097, usize::MAX] {
            let result = read_words(&[size, 1, 2]);
            assert_eq!(
                result.err().map(|e| e.code()),
                Some(Code::InvalidArgument),
                "{size}"
            );
        }
    }

    #[test]
    fn a_result_is_written_as_far_as_the_caller_has_room() {
        let value = Options {
            size: 24,
            a: 1,
            b: 2,
        };
        let mut words = [16_usize, 0, 99];
        // SAFETY: the array has the 16 bytes it says.
        unsafe { write(words.as_mut_ptr().cast::<Options>(), &value) }.unwrap();
        assert_eq!(words, [16, 1, 99]);
    }

    #[test]
    fn an_array_has_the_stride_that_its_first_element_says() {
        let mut words = [16_usize, 1, 16, 2, 99];
        // SAFETY: two structs of the 16 bytes that the first one says.
        let array = unsafe { Array::new(words.as_mut_ptr().cast::<Options>(), 2) };
        let array = array.unwrap().unwrap();
        assert_eq!(array.read(1).unwrap().a, 2);
        let value = Options {
            size: 24,
            a: 5,
            b: 6,
        };
        array.write(1, &value);
        assert_eq!(words, [16, 1, 16, 5, 99]);
        // SAFETY: refused before anything but the first size is read.
        let endless = unsafe { Array::new(words.as_mut_ptr().cast::<Options>(), usize::MAX / 8) };
        assert_eq!(endless.err().map(|e| e.code()), Some(Code::LimitExceeded));
    }
}
