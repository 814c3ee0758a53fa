//! The run loop: a thread per vCPU that enters the guest, serves its accesses, and obeys its owner.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use crate::bus::{Bus, Effect};
use crate::devices::worker::STACK;
use crate::kvm::{self, Exit, Fault, Kicker, RunVcpu, VcpuState};
use crate::timeline::{Step, Timeline};

/// What the guest can reach.
#[derive(Clone, Default)]
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Physical addresses without memory.
    pub mmio: Bus,
}

/// Why a vCPU will not run any more.
#[derive(Debug)]
pub enum Stopped {
    /// A write to a device ended the guest.
    Effect(Effect),
    /// Triple fault.
    TripleFault(Option<Box<Fault>>),
    /// KVM could not go on.
    Unable {
        /// What it said.
        reason: String,
        /// Whether it met an instruction that it cannot emulate.
        emulation: bool,
        /// Where, and in which state.
        fault: Option<Box<Fault>>,
    },
    /// A call to KVM failed.
    Failed(kvm::Error),
}

enum Command {
    /// Leave the guest and say so; then wait.
    Pause(Sender<()>),
    /// While paused: the state.
    Save(Sender<Result<VcpuState, kvm::Error>>),
    Resume,
    Stop,
}

/// A vCPU on its thread.
pub struct VcpuThread {
    /// Gives the vCPU back at its end: a kick may come after it, and must find its memory.
    thread: JoinHandle<Box<dyn RunVcpu>>,
    commands: Sender<Command>,
    kicker: Kicker,
}

impl VcpuThread {
    /// Starts to run `vcpu`, or lets it wait for [`VcpuThread::resume`] if `paused`. `report` is called at most once, when it will not run any more; the thread then waits
    /// to be stopped.
    pub fn spawn<V, R>(
        id: u8,
        mut vcpu: V,
        buses: Arc<Buses>,
        timeline: Arc<Timeline>,
        paused: bool,
        report: R,
    ) -> io::Result<Self>
    where
        V: RunVcpu + 'static,
        R: FnOnce(Stopped) + Send + 'static,
    {
        let (commands, received) = mpsc::channel();
        let kicker = vcpu.kicker();
        let own = kicker.clone();
        let builder = std::thread::Builder::new().name(format!("vcpu{id}")).stack_size(STACK);
        let thread = builder.spawn(move || {
            if paused && matches!(obey(&vcpu, &received, true), Obeyed::Stop) {
                return Box::new(vcpu) as Box<dyn RunVcpu>;
            }
            if id == 0 {
                timeline.step(Step::FirstRun);
            }
            if let Some(stopped) = serve(&mut vcpu, &buses, &own, &received) {
                timeline.step(Step::GuestStopped);
                report(stopped);
                wait(&vcpu, &received);
            }
            Box::new(vcpu)
        })?;
        Ok(Self { thread, commands, kicker })
    }

    /// Pauses: `acknowledge` hears when the vCPU is out of the guest, with no access half done.
    pub fn pause(&self, acknowledge: Sender<()>) {
        self.command(Command::Pause(acknowledge));
    }

    /// Asks a paused vCPU for its state.
    pub fn save(&self, reply: Sender<Result<VcpuState, kvm::Error>>) {
        self.command(Command::Save(reply));
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.command(Command::Resume);
    }

    /// Tells the vCPU to end; [`VcpuThread::join`] waits for it.
    pub fn stop(&self) {
        self.command(Command::Stop);
    }

    /// Waits for the thread's end, and destroys the vCPU.
    pub fn join(self) {
        // A thread that panicked has ended the process.
        let _ = self.thread.join();
    }

    fn command(&self, command: Command) {
        // Fails only after the thread's end.
        let _ = self.commands.send(command);
        self.kicker.kick(&self.thread);
    }
}

/// Runs the guest until it cannot or must not go on; why, unless it was stopped from outside.
fn serve(
    vcpu: &mut impl RunVcpu,
    buses: &Buses,
    kicker: &Kicker,
    commands: &Receiver<Command>,
) -> Option<Stopped> {
    loop {
        let effect = match vcpu.run() {
            Ok(Exit::PortIn { port, size, data }) => {
                data.chunks_mut(size).for_each(|unit| buses.ports.read(port.into(), unit));
                Effect::None
            }
            Ok(Exit::PortOut { port, size, data }) => data
                .chunks(size)
                .map(|unit| buses.ports.write(port.into(), unit))
                .find(|&effect| effect != Effect::None)
                .unwrap_or_default(),
            Ok(Exit::MmioRead(addr, data)) => {
                buses.mmio.read(addr, data);
                Effect::None
            }
            Ok(Exit::MmioWrite(addr, data)) => buses.mmio.write(addr, data),
            Ok(Exit::Kicked) => {
                // Cleared first: a kick that comes now finds its command in the channel already.
                kicker.clear();
                match obey(vcpu, commands, false) {
                    Obeyed::GoOn => Effect::None,
                    Obeyed::Stop => return None,
                }
            }
            Ok(Exit::TripleFault) => return Some(Stopped::TripleFault(vcpu.fault())),
            Ok(Exit::InternalError { emulation }) => {
                let reason = if emulation { "it cannot emulate an instruction" } else { "internal error" };
                return Some(Stopped::Unable { reason: reason.to_owned(), emulation, fault: vcpu.fault() });
            }
            Ok(Exit::FailedEntry(reason)) => {
                let reason = format!("the processor refused to enter the guest (reason {reason:#x})");
                return Some(Stopped::Unable { reason, emulation: false, fault: vcpu.fault() });
            }
            Ok(Exit::Unexpected(exit)) => {
                let reason = format!("unexpected exit {exit}");
                return Some(Stopped::Unable { reason, emulation: false, fault: vcpu.fault() });
            }
            Err(e) => return Some(Stopped::Failed(e)),
        };
        if effect != Effect::None {
            return Some(Stopped::Effect(effect));
        }
    }
}

enum Obeyed {
    GoOn,
    Stop,
}

/// Does what the owner has asked for.
fn obey(vcpu: &impl RunVcpu, commands: &Receiver<Command>, mut paused: bool) -> Obeyed {
    loop {
        let command = if paused { commands.recv().ok() } else { commands.try_recv().ok() };
        match command {
            Some(Command::Pause(acknowledge)) => {
                paused = true;
                // Nobody waits any more when the owner has given up.
                let _ = acknowledge.send(());
            }
            Some(Command::Save(reply)) => {
                let _ = reply.send(vcpu.save());
            }
            Some(Command::Resume) => paused = false,
            Some(Command::Stop) => return Obeyed::Stop,
            None if paused => return Obeyed::Stop,
            None => return Obeyed::GoOn,
        }
    }
}

/// Waits to be stopped; a vCPU that has ended counts as paused.
fn wait(vcpu: &impl RunVcpu, commands: &Receiver<Command>) {
    while let Ok(command) = commands.recv() {
        match command {
            Command::Pause(acknowledge) => {
                let _ = acknowledge.send(());
            }
            Command::Save(reply) => {
                let _ = reply.send(vcpu.save());
            }
            Command::Resume => {}
            Command::Stop => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::BusDevice;
    use abi::layout::Range;
    use std::sync::Mutex;

    /// A vCPU that makes the exits of a script, then waits to be kicked.
    struct Scripted {
        script: Vec<fn(&mut [u8]) -> Exit<'_>>,
        data: [u8; 8],
        kicker: Kicker,
        seen: Sender<[u8; 8]>,
    }

    impl RunVcpu for Scripted {
        fn run(&mut self) -> Result<Exit<'_>, kvm::Error> {
            let _ = self.seen.send(self.data);
            if self.kicker.is_set() {
                return Ok(Exit::Kicked);
            }
            match self.script.pop() {
                Some(exit) => Ok(exit(&mut self.data)),
                None => {
                    while !self.kicker.is_set() {
                        std::thread::yield_now();
                    }
                    Ok(Exit::Kicked)
                }
            }
        }

        fn fault(&self) -> Option<Box<Fault>> {
            None
        }

        fn save(&self) -> Result<VcpuState, kvm::Error> {
            Err(kvm::Error::Absent)
        }

        fn kicker(&mut self) -> Kicker {
            self.kicker.clone()
        }
    }

    #[derive(Default)]
    struct Recorder(Mutex<Vec<Vec<u8>>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8 + 1);
        }

        fn write(&self, _offset: u64, data: &[u8]) -> Effect {
            self.0.lock().unwrap().push(data.to_vec());
            if data == [0xfe] { Effect::Reset } else { Effect::None }
        }
    }

    struct Run {
        thread: VcpuThread,
        device: Arc<Recorder>,
        seen: Receiver<[u8; 8]>,
        stopped: Receiver<Stopped>,
    }

    fn run(mut script: Vec<fn(&mut [u8]) -> Exit<'_>>) -> Run {
        vmm_sys_util::signal::register_signal_handler(libc::SIGUSR1, ignore).unwrap();
        script.reverse();
        let device = Arc::new(Recorder::default());
        let mut buses = Buses::default();
        buses.ports.insert(Range::new(0x10, 0x14), device.clone()).unwrap();
        let (seen_tx, seen) = mpsc::channel();
        let (report, stopped) = mpsc::channel();
        let vcpu = Scripted { script, data: [0; 8], kicker: Kicker::detached(), seen: seen_tx };
        let report = move |stopped| report.send(stopped).unwrap();
        let thread = VcpuThread::spawn(
            0,
            vcpu,
            Arc::new(buses),
            Arc::new(Timeline::begin(None, false)),
            false,
            report,
        )
        .unwrap();
        Run { thread, device, seen, stopped }
    }

    extern "C" fn ignore(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

    #[test]
    fn string_accesses_are_split_into_units() {
        let run = run(vec![
            |data| {
                data[..4].copy_from_slice(&[1, 2, 3, 4]);
                Exit::PortOut { port: 0x11, size: 2, data: &data[..4] }
            },
            |data| Exit::PortIn { port: 0x12, size: 1, data: &mut data[..3] },
            |data| Exit::PortOut {
                port: 0x10,
                size: 1,
                data: {
                    data[0] = 0xfe;
                    &data[..1]
                },
            },
        ]);
        assert!(matches!(run.stopped.recv().unwrap(), Stopped::Effect(Effect::Reset)));
        assert_eq!(*run.device.0.lock().unwrap(), [vec![1, 2], vec![3, 4], vec![0xfe]]);
        let after_read = run.seen.iter().nth(2).unwrap();
        assert_eq!(after_read[..4], [3, 3, 3, 4]);
        run.thread.stop();
        run.thread.join();
    }

    #[test]
    fn pauses_a_thousand_times() {
        let run = run(vec![]);
        for _ in 0..1000 {
            let (acknowledge, acknowledged) = mpsc::channel();
            run.thread.pause(acknowledge);
            acknowledged.recv().unwrap();
            run.thread.resume();
        }
        run.thread.stop();
        run.thread.join();
        assert!(run.stopped.try_recv().is_err(), "stopping is not an end of its own");
    }

    #[test]
    fn a_vcpu_that_has_ended_still_obeys() {
        let run = run(vec![|_| Exit::TripleFault]);
        assert!(matches!(run.stopped.recv().unwrap(), Stopped::TripleFault(None)));
        let (acknowledge, acknowledged) = mpsc::channel();
        run.thread.pause(acknowledge);
        acknowledged.recv().unwrap();
        run.thread.stop();
        run.thread.join();
    }
}
