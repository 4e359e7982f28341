//! Contract 11.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;

use driver::{Event, Interest, Token};
use rustix::fs::OFlags;
use rustix::io::FdFlags;

use crate::world::World;

even_in_trouble!(a_client_is_accepted_and_understood);

mod exactly {
    use super::*;

    on_every_world!(a_waiting_client_makes_the_listener_readable, an_empty_backlog_would_block);

    fn a_waiting_client_makes_the_listener_readable(world: &World) {
        let listener = world.listener();
        world.driver.watch(listener.as_raw_fd(), Interest::READABLE, Token(5)).unwrap();
        assert_eq!(world.events_now(), []);
        let _client = world.connect(&listener);
        let event = Event { token: Token(5), readable: true, writable: false };
        assert_eq!(world.events(), [event]);
        world.driver.accept(listener.as_raw_fd()).unwrap();
        assert_eq!(world.events_now(), []);
    }

    fn an_empty_backlog_would_block(world: &World) {
        let listener = world.listener();
        let error = world.driver.accept(listener.as_raw_fd()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri knows no sockets")]
    fn an_accepted_socket_neither_blocks_nor_survives_exec() {
        let world = World::epoll_tcp();
        let listener = world.listener();
        let _client = world.connect(&listener);
        let accepted = world.driver.accept(listener.as_raw_fd()).unwrap();
        assert!(rustix::fs::fcntl_getfl(&accepted).unwrap().contains(OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(&accepted).unwrap().contains(FdFlags::CLOEXEC));
    }
}

fn a_client_is_accepted_and_understood(world: &World) {
    let listener = world.listener();
    let client = world.connect(&listener);
    let number = listener.as_raw_fd();
    let accepted = world.persist(number, Interest::READABLE, || world.driver.accept(number)).unwrap();
    world.send_all(&client, b"hello").unwrap();
    world.shutdown_write(&client);
    assert_eq!(world.recv_to_end(&accepted).unwrap(), b"hello");
}
