//! Commands of the driver (section 5.1.6.5).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR,
    VIRTIO_NET_OK,
};

use super::{Net, receive_queue};
use crate::devices::virtio::scatter::{copy_in, copy_out};
use crate::devices::virtio::{Chain, Context, Error, Rings};

/// Class, command and the longest data of those that are known.
const LONGEST: usize = 2 + 8;

impl Net {
    /// Does what the driver asks for.
    pub(super) fn control(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        let before = self.pairs;
        while let Some(chain) = cx.pop(queue)? {
            let ack = if self.command(cx, &chain) { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
            if copy_in(&chain.writable, 0, &[ack as u8]) == 0 {
                return Err(Error::Request("a command of the network device has no room for its answer"));
            }
            cx.push(queue, chain.head, 1)?;
        }
        if cx.listen(queue)? {
            cx.again(queue);
        }
        // Frames may wait in queues that nobody has read from so far.
        (before..self.pairs).for_each(|pair| cx.again(receive_queue(pair)));
        cx.notify(queue)
    }

    fn command(&mut self, rings: &Rings<'_>, chain: &Chain<'_>) -> bool {
        let mut bytes = [0; LONGEST];
        let len = copy_out(&chain.readable, 0, &mut bytes);
        let Some(([class, command], data)) = bytes[..len].split_first_chunk() else { return false };
        match (u32::from(*class), u32::from(*command)) {
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => data.first_chunk().is_some_and(|mac| {
                self.mac = *mac;
                rings.show_config(self);
                true
            }),
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
                let pairs = data.first_chunk().map(|pairs| u16::from_le_bytes(*pairs));
                pairs.filter(|pairs| (1..=self.backend.pairs()).contains(pairs)).is_some_and(|pairs| {
                    let before = std::mem::replace(&mut self.pairs, pairs);
                    self.configure(rings) || {
                        self.pairs = before;
                        false
                    }
                })
            }
            (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
                let wanted = data.first_chunk().map(|bits| u64::from_le_bytes(*bits));
                wanted.filter(|wanted| wanted & !rings.features() == 0).is_some_and(|wanted| {
                    let before = self.offloads.replace(wanted);
                    self.configure(rings) || {
                        self.offloads = before;
                        false
                    }
                })
            }
            _ => false,
        }
    }
}
