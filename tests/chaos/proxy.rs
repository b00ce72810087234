//! The reverse proxy in front of the daemons' callback listeners, as a site would have one: it passes each connection of
//! the gateway on to a daemon that lives.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::world::World;

/// Serves until it is dropped.
pub(crate) async fn serve(world: &World) -> Infallible {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, world.callback_port)).await.unwrap();
    let mut turn = 0;
    loop {
        let Ok((mut gateway, _)) = listener.accept().await else { continue };
        let living: Vec<usize> =
            (0..world.slots.len()).filter(|number| world.slots[*number].borrow().is_running()).collect();
        // Without anybody the connection ends; the gateway tries again later.
        let Some(number) = living.get(turn % living.len().max(1)) else { continue };
        turn += 1;
        let port = world.callback_ports[*number];
        tokio::spawn(async move {
            let Ok(mut daemon) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            // Either side may end at any moment; the other is told by the end of its connection.
            let _ = copy_bidirectional(&mut gateway, &mut daemon).await;
        });
    }
}
