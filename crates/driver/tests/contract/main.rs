//! The contract of `src/backend/mod.rs`, case by case, on every backend.
//!
//! `on_every_world!` runs a case on epoll with Unix sockets, on epoll with TCP over loopback, and on the simulation. `even_in_trouble!`
//! runs it besides on simulations that are as unkind as the contract allows, with many seeds: such a case must not count
//! calls or events, only say what comes out in the end. Contract 12 needs a fork, which needs unsafe code: it is tested in `src/driver.rs`.

/// Each case is a function of a `&World`.
macro_rules! on_every_world {
    ($($case:ident),+ $(,)?) => {
        $(mod $case {
            use crate::world::World;

            #[test]
            #[cfg_attr(miri, ignore = "Miri knows no epoll on sockets")]
            fn on_epoll_with_unix_sockets() {
                super::$case(&World::epoll_unix());
            }

            #[test]
            #[cfg_attr(miri, ignore = "Miri knows no epoll on sockets")]
            fn on_epoll_with_tcp() {
                super::$case(&World::epoll_tcp());
            }

            #[test]
            fn simulated() {
                super::$case(&World::simulated(1));
            }
        })+
    };
}

macro_rules! even_in_trouble {
    ($($case:ident),+ $(,)?) => {
        on_every_world!($($case),+);

        mod in_trouble {
            $(#[test]
            fn $case() {
                for seed in 0..if cfg!(miri) { 2 } else { 100 } {
                    super::$case(&crate::world::World::in_trouble(seed));
                }
            })+
        }
    };
}

mod accepting;
mod input_output;
mod readiness;
mod simulation;
mod waiting;
mod world;
