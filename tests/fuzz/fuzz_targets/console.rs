//! The console against a driver that does what the bytes say, while somebody types. The first byte chooses the transport;
//! afterwards what is printed and typed has to arrive for a driver that starts anew.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmm::devices::console::{ConsoleOutput, InputPort};
use vmm::devices::virtio::testing::{Script, Target, World};
use vmm::devices::virtio::{Console, ConsoleInput, Port};

/// Bytes that are used: some fifteen steps.
const SCRIPT: usize = 96;
const PORTS: usize = 2;
/// Queues: input, output, messages either way, then two for each further port.
const INPUT: u16 = 0;
const OUTPUT: u16 = 1;
const FROM_DRIVER: u16 = 3;
/// More than can be typed ahead.
const ROOM: usize = 8192;

struct Ends {
    outputs: Vec<ConsoleOutput>,
    input: Arc<ConsoleInput>,
    resized: bool,
}

impl World for Ends {
    fn request(&mut self, queue: u16, script: &mut Script<'_>) -> (Vec<u8>, Vec<usize>) {
        match queue {
            FROM_DRIVER => {
                // A port, an event, a value; eight bytes in all.
                let (id, event, value) =
                    (script.number(1) as u8, script.number(1) as u8, script.number(1) as u8);
                (vec![id & 3, 0, 0, 0, event & 7, 0, value & 1, 0], Vec::new())
            }
            queue if queue % 2 == 1 => (vec![0x5a; script.number(1) as usize * 16], Vec::new()),
            _ => (Vec::new(), vec![script.number(1) as usize, script.number(1) as usize * 16]),
        }
    }

    fn stir(&mut self, script: &mut Script<'_>) {
        match script.number(1) % 4 {
            0 => {
                self.resized = true;
                self.input.resize(script.number(1) as u16, script.number(1) as u16);
            }
            1 => self.calm(),
            _ => {
                let len = self.input.input_room().min(script.number(1) as usize);
                self.input.input(&vec![0xa5; len]);
            }
        }
    }

    fn calm(&mut self) {
        self.outputs.iter().for_each(|output| drop(output.take()));
    }
}

thread_local! {
    static TARGETS: RefCell<[(Ends, Target); 3]> = RefCell::new([0, 1, 2].map(|kind| {
        let outputs: Vec<_> = (0..PORTS).map(|_| ConsoleOutput::new().expect("a descriptor")).collect();
        let input = Arc::new(ConsoleInput::new().expect("descriptors"));
        let port = |(at, output): (usize, &ConsoleOutput)| Port { name: format!("p{at}"), output: output.clone() };
        let device = Console::new(outputs.iter().enumerate().map(port).collect(), Arc::clone(&input));
        (Ends { outputs, input, resized: false }, Target::new(Box::new(device), kind))
    }));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, script)) = data.split_first() else { return };
    TARGETS.with_borrow_mut(|targets| {
        let (ends, target) = &mut targets[usize::from(kind % 3)];
        target.attack(&script[..script.len().min(SCRIPT)], ends);
        assert_eq!(target.watched(), 1);
        let driver = target.driver();
        driver.request(OUTPUT, &[b"printed"], &[]);
        assert_eq!(ends.outputs[0].take(), b"printed");
        // What was typed during the attack is there still.
        let typed: &[u8] = if ends.input.input_room() > 5 { b"typed" } else { b"" };
        ends.input.input(typed);
        let used = driver.request(INPUT, &[], &[ROOM]);
        assert!(used.data[..used.written as usize].ends_with(typed) && used.written > 0);
        assert!(!driver.needs_reset());
        fuzz::bounded_descriptors();
        let resized = std::mem::take(&mut ends.resized);
        #[cfg(feature = "planted")]
        fuzz::plant(&[target.served, target.rested, resized]);
        #[cfg(not(feature = "planted"))]
        let _ = resized;
    });
});
