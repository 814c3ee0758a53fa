//! A guest that keeps devices busy: in each queue, once its requests were answered, it makes the same ones again.

mod guest;
mod peers;

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm::config::{RawConfig, TransportKind, VmSpec};
use vmm::control::{Error, Handle, Running, Signals};
use vmm::devices::console::ConsoleOutput;
use vmm::devices::virtio::{Console, ConsoleInput, Port};
use vmm::kvm::Host;
use vmm::machine::{self, Attachment, MachineState, Start, Wiring};
use vmm::memory::Memory;
use vmm::memory::layout::RamLayout;
use vmm::open::Opened;
use vmm::outcome::Outcome;
use vmm::sandbox;
use vmm::timeline::Timeline;

use guest::{Queue, RING_BYTES};

/// Bytes of the guest's memory.
const MEMORY: u64 = 16 << 20;
/// After this long an answer is lost.
const LOST: Duration = Duration::from_secs(60);

/// Whether there is a KVM to test with; a run that must not skip anything fails without.
pub fn has_kvm() -> bool {
    let found = Host::open();
    if let Err(e) = &found {
        assert!(std::env::var_os("JIFFY_REQUIRE").is_none(), "{e}");
        eprintln!("skipped: {e}");
    }
    found.is_ok()
}

/// Whether there are devices with somebody at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// A network card, a socket device and a console.
    There,
    None,
}

pub struct Vm {
    memory: Memory,
    pub handle: Handle,
    thread: JoinHandle<Result<Outcome, Error>>,
    queues: Vec<Queue>,
    printed: ConsoleOutput,
}

fn spec(place: &Path, peers: Peers) -> VmSpec {
    let at = place.display();
    let mut config = format!(
        "kernel = '{at}/kernel'\nmemory = '16M'\nrng = {{}}\ndisk = ['path={at}/disk']\npmem = ['path={at}/pmem']\n"
    );
    if peers == Peers::There {
        config += &format!("net = ['passt={at}/net']\nvsock = 'cid=3,path={at}/v'\n");
    }
    RawConfig::parse(&"vm.toml".parse().unwrap(), config.as_bytes()).unwrap().into_spec().unwrap()
}

fn memory(place: &Path) -> Memory {
    Memory::new(&spec(place, Peers::None).memory, &RamLayout::new(MEMORY)).unwrap()
}

/// A VM that has not begun, or not gone on.
struct Prepared {
    running: Running,
    memory: Memory,
    queues: Vec<Queue>,
    printed: ConsoleOutput,
}

fn prepare(
    memory: Memory,
    start: Start,
    place: &Path,
    transport: TransportKind,
    peers: Peers,
    paused: bool,
) -> Prepared {
    let _signals = Signals::take_over().unwrap();
    let timeline = Arc::new(Timeline::begin(None, false));
    let wiring =
        Wiring { console: ConsoleOutput::new().unwrap(), input: None, timeline: Arc::clone(&timeline) };
    let spec = spec(place, peers);
    let boots = matches!(start, Start::Boot { .. });
    let mut devices = Opened::new(&spec).unwrap().devices;
    devices.iter_mut().for_each(|device| device.transport = transport);
    let printed = ConsoleOutput::new().unwrap();
    if peers == Peers::There {
        let port = Port { name: String::new(), output: printed.clone() };
        let device = Console::new(vec![port], Arc::new(ConsoleInput::new().unwrap()));
        devices.push(Attachment { name: "console".to_owned(), transport, device: Box::new(device) });
    }
    let queues = guest::queues(&devices, transport);
    let machine =
        machine::build(&Host::open().unwrap(), &spec, memory.clone(), start, &wiring, devices).unwrap();
    if boots {
        guest::initialise(&machine.board.buses, &memory, &queues, transport);
    }
    let mut running = Running::start(machine, &timeline, paused, &sandbox::seal().unwrap()).unwrap();
    let sources = running.board().devices.sources();
    running.serve(sources).unwrap();
    Prepared { running, memory, queues, printed }
}

impl Prepared {
    fn run(self) -> Vm {
        let Self { running, memory, queues, printed } = self;
        let handle = running.handle();
        Vm { memory, handle, thread: thread::spawn(move || running.run(None)), queues, printed }
    }
}

impl Vm {
    /// With the files of its devices in the folder `place`.
    pub fn boot(place: &Path, transport: TransportKind, peers: Peers) -> Self {
        for (name, len) in [("kernel", 0), ("disk", 1 << 20), ("pmem", 2 << 20)] {
            std::fs::File::create(place.join(name)).unwrap().set_len(len).unwrap();
        }
        if peers == Peers::There {
            peers::serve(place);
        }
        let memory = memory(place);
        let start = Start::Boot { cpu: guest::CPU, firmware: None };
        guest::load(&memory);
        let vm = prepare(memory, start, place, transport, peers, false);
        guest::go(&vm.running.board().buses, &vm.memory, &vm.queues);
        vm.run()
    }

    /// As it was saved, and paused.
    pub fn restore(memory: Memory, state: Box<MachineState>, place: &Path, transport: TransportKind) -> Self {
        let start = Start::Restore { state, firmware: None };
        prepare(memory, start, place, transport, Peers::None, true).run()
    }

    /// All rings and buffers. In none was a request answered twice.
    pub fn rings(&self) -> Vec<Vec<u8>> {
        let rings = |queue: &Queue| {
            queue.open(&self.memory);
            let mut bytes = vec![0; RING_BYTES as usize];
            self.memory.read(queue.rings(), &mut bytes).unwrap();
            bytes
        };
        self.queues.iter().map(rings).collect()
    }

    /// Waits for one more answer, of whatever device.
    pub fn wait_for_any(&self) {
        let before = self.answered();
        self.wait(|| self.answered() != before);
    }

    /// Waits for so many more answers in each queue. The guest waits for all answers before it asks again, so after one that
    /// was lost there would be no more in its queue.
    pub fn wait_for(&self, answers: u16) {
        let before = self.answered();
        self.wait(|| {
            self.answered().iter().zip(&before).all(|(now, before)| now.wrapping_sub(*before) > answers)
        });
    }

    fn answered(&self) -> Vec<u16> {
        self.queues.iter().map(|queue| queue.answered(&self.memory)).collect()
    }

    fn wait(&self, until: impl Fn() -> bool) {
        let start = Instant::now();
        while !until() {
            assert!(start.elapsed() < LOST, "an answer is lost: {:?} in {:?}", self.answered(), self.queues);
            thread::yield_now();
        }
    }

    /// A copy of its memory.
    pub fn copy(&self) -> Memory {
        let memory = memory(Path::new(""));
        let mut bytes = vec![0; MEMORY as usize];
        self.memory.read(0, &mut bytes).unwrap();
        memory.write(0, &bytes).unwrap();
        memory
    }

    /// Ends it. What was printed is all that the guest says that it has printed.
    pub fn end(self) {
        self.handle.pause().unwrap();
        let printed: Vec<u16> = self
            .queues
            .iter()
            .filter(|queue| queue.prints())
            .map(|queue| queue.answered(&self.memory))
            .collect();
        for count in printed {
            assert_eq!(
                (self.printed.take().len() as u16, self.printed.lost()),
                (count, 0),
                "bytes on the console"
            );
        }
        self.handle.end(libc::SIGTERM as u8);
        self.thread.join().unwrap().unwrap();
    }
}
