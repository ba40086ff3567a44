//! What all entry points share.

use crate::code::{Code, Done};

/// Declares entry points: functions that give `Ok` or an error code.
macro_rules! entries {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// Pointers are what the driver's interface asks for.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub(crate) unsafe extern "C" fn $name($($argument: $ty),*) -> $crate::code::Code {
                #[allow(unused_unsafe, unused_mut)]
                let mut body = || -> $crate::code::Done {
                    // SAFETY: by this function's own contract.
                    unsafe { $body }
                };
                match body() {
                    Ok(()) => $crate::code::Code::SUCCESS,
                    Err(code) => code,
                }
            }
        )*
    };
}
pub(crate) use entries;

/// Writes a result where the caller wants it.
///
/// # Safety
/// The pointer is null or may be written.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Done {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: by the contract above.
    unsafe { to.write(value) };
    Ok(())
}
