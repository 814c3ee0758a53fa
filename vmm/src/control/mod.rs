//! The life cycle of a VM: created, running, paused, stopped. One thread owns the machine, takes commands, and
//! decides.

mod launch;
mod signals;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Effect;
use crate::devices::console::Terminal;
use crate::devices::event_loop::Source;
use crate::devices::worker::Worker;
use crate::kvm;
use crate::machine::{self, Board, Machine, MachineState};
use crate::outcome::Outcome;
use crate::sandbox::Sealed;
use crate::timeline::Timeline;
use crate::vcpu::{Stopped, VcpuThread};
pub use launch::{Report, launch};
pub use signals::{Signals, Wish};

/// A VM that could not be run to an outcome.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A machine part failed.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// KVM failed while the guest ran.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// A thread or descriptor could not be had.
    #[error("cannot start the VM's threads: {0}")]
    Threads(#[from] io::Error),
    /// All who could have ended the VM are gone.
    #[error("the VM's threads have ended without a word")]
    Abandoned,
    /// The command does not go with the state the VM is in.
    #[error("the VM is {0}, not paused")]
    NotPaused(&'static str),
}

enum Command {
    VcpuStopped { cpu: u8, stopped: Stopped },
    End { signal: u8 },
    Pause(Sender<()>),
    Resume(Sender<()>),
    Save(Sender<Result<MachineState, Error>>),
}

/// Sends commands to a VM's owner.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
}

impl Handle {
    /// Ends the VM as if this signal had come.
    pub fn end(&self, signal: u8) {
        self.send(Command::End { signal });
    }

    /// Pauses the VM; returns when every vCPU and worker has acknowledged and nothing is in flight.
    pub fn pause(&self) -> Result<(), Error> {
        self.ask(Command::Pause)
    }

    /// Goes on after a pause.
    pub fn resume(&self) -> Result<(), Error> {
        self.ask(Command::Resume)
    }

    /// The state of a paused VM.
    pub fn save(&self) -> Result<MachineState, Error> {
        self.ask(Command::Save)?
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = mpsc::channel();
        self.send(command(reply));
        answer.recv().map_err(|_| Error::Abandoned)
    }

    fn send(&self, command: Command) {
        // Both fail only after the owner's end.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

/// A VM that runs, or is paused. Dropping it stops all its threads before its memory goes.
pub struct Running {
    commands: Receiver<Command>,
    handle: Handle,
    vcpus: Vec<VcpuThread>,
    worker: Option<Worker>,
    board: Board,
    paused: bool,
}

impl Running {
    /// Starts the vCPUs of a machine, or leaves them waiting if `paused`.
    pub fn start(
        machine: Machine,
        timeline: &Arc<Timeline>,
        paused: bool,
        _: &Sealed,
    ) -> Result<Self, Error> {
        let (sender, commands) = mpsc::channel();
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let handle = Handle { commands: sender, wake };
        let Machine { vcpus, board } = machine;
        let threads = Vec::with_capacity(vcpus.len());
        let mut running = Self { commands, handle, vcpus: threads, worker: None, board, paused };
        for vcpu in vcpus {
            let (cpu, owner) = (vcpu.id(), running.handle());
            let report = move |stopped| owner.send(Command::VcpuStopped { cpu, stopped });
            let (buses, timeline) = (Arc::clone(&running.board.buses), Arc::clone(timeline));
            running.vcpus.push(VcpuThread::spawn(cpu, vcpu, buses, timeline, paused, report)?);
        }
        Ok(running)
    }

    /// Gives the VM its device worker. That is not done at the start: the guest need not wait for it.
    pub fn serve(&mut self, sources: Vec<Box<dyn Source>>) -> Result<(), Error> {
        self.worker = Some(Worker::spawn("devices", sources, self.paused)?);
        Ok(())
    }

    /// What commands can be sent through.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The machine's parts.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Obeys commands and signals until the VM ends, then stops all its threads and destroys it.
    pub fn run(mut self, signals: Option<&Signals>) -> Result<Outcome, Error> {
        self.decide(signals)
    }

    fn decide(&mut self, signals: Option<&Signals>) -> Result<Outcome, Error> {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if let Some(outcome) = self.obey(command)? {
                    return Ok(outcome);
                }
            }
            let wake = self.handle.wake.as_ref();
            let mut fds = vec![PollFd::from_borrowed_fd(borrow(wake), PollFlags::IN)];
            fds.extend(signals.map(|signals| PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::Threads(e.into())),
            }
            // Nothing to read when it was a signal that woke us.
            let _ = wake.read();
            let Some(signals) = signals else { continue };
            match signals.take() {
                None => {}
                Some(Wish::End(signal)) => return Ok(Outcome::Killed { signal }),
                Some(Wish::Resized) => self.board.devices.tell_size(),
                Some(Wish::Stop) => {
                    Terminal::leave();
                    signals.stop()?;
                }
                Some(Wish::Continued) => {
                    Terminal::reenter();
                    // In the background, the worker has found that the input was not for it.
                    let _ = self.board.devices.input.room_event().write(1);
                }
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<Option<Outcome>, Error> {
        match command {
            Command::VcpuStopped { cpu, stopped } => return self.outcome(cpu, stopped).map(Some),
            Command::End { signal } => return Ok(Some(Outcome::Killed { signal })),
            Command::Pause(done) => {
                self.pause();
                let _ = done.send(());
            }
            Command::Resume(done) => {
                self.vcpus.iter().for_each(VcpuThread::resume);
                self.worker.iter().for_each(Worker::resume);
                self.paused = false;
                let _ = done.send(());
            }
            Command::Save(reply) => {
                let _ = reply.send(self.save());
            }
        }
        Ok(None)
    }

    /// vCPUs first: what they have begun, the worker brings to its end.
    fn pause(&mut self) {
        let (acknowledge, acknowledged) = mpsc::channel();
        self.vcpus.iter().for_each(|vcpu| vcpu.pause(acknowledge.clone()));
        let _ = acknowledged.iter().take(self.vcpus.len()).count();
        if let Some(worker) = &self.worker {
            worker.pause(acknowledge);
            let _ = acknowledged.recv();
        }
        self.paused = true;
    }

    fn save(&self) -> Result<MachineState, Error> {
        if !self.paused {
            return Err(Error::NotPaused("running"));
        }
        let state = |vcpu: &VcpuThread| {
            let (reply, answer) = mpsc::channel();
            vcpu.save(reply);
            Ok(answer.recv().map_err(|_| Error::Abandoned)??)
        };
        let vcpus = self.vcpus.iter().map(state).collect::<Result<Vec<_>, Error>>()?;
        Ok(self.board.save(&vcpus)?)
    }

    fn outcome(&self, cpu: u8, stopped: Stopped) -> Result<Outcome, Error> {
        let status = self.board.devices.jiffy.status();
        let decoded = |fault: Option<Box<kvm::Fault>>| {
            fault.map(|mut fault| {
                fault.decode(|addr, buffer| self.board.memory().read(addr, buffer).is_ok());
                fault
            })
        };
        Ok(match stopped {
            Stopped::Effect(Effect::PowerOff | Effect::None) => Outcome::PowerOff { status },
            Stopped::Effect(Effect::Reset) => Outcome::Reset { status },
            Stopped::Effect(Effect::Panic) => Outcome::Panic,
            Stopped::Effect(Effect::DebugExit(code)) => Outcome::DebugExit { code },
            Stopped::TripleFault(fault) => Outcome::TripleFault { cpu, fault: decoded(fault) },
            Stopped::Unable { reason, emulation, fault } => {
                let software = emulation && kvm::Probe::run().level == kvm::Level::Software;
                let hint = "; this host's KVM emulates guests in software and cannot run this one: use a host with \
                            hardware virtualisation (`jiffy probe` tells)";
                let reason = if software { format!("{reason}{hint}") } else { reason };
                Outcome::KvmStopped { cpu, reason, fault: decoded(fault) }
            }
            Stopped::Failed(e) => return Err(e.into()),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // All are told before any is waited for.
        self.vcpus.iter().for_each(VcpuThread::stop);
        self.worker.iter().for_each(Worker::stop);
        self.vcpus.drain(..).for_each(VcpuThread::join);
        self.worker.take().into_iter().for_each(Worker::join);
    }
}

#[allow(unsafe_code, reason = "vmm-sys-util's EventFd does not lend its descriptor")]
fn borrow(event: &EventFd) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `event`, which the result borrows.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
