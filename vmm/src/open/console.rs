//! The console's ends: queues for output, the files of further ports, and what is typed.

use std::io;
use std::sync::Arc;

use super::{Error, Taken, writable};
use crate::config::{ConsoleDevice, DevicesSpec};
use crate::devices::console::{ConsoleOutput, OutputPump, Sink};
use crate::devices::event_loop::Source;
use crate::devices::virtio::{Console, ConsoleInput, MAX_PORTS, Port};

/// Everything that has to do with consoles and is no device.
#[derive(Debug)]
pub struct Consoles {
    /// What the guest says.
    pub output: ConsoleOutput,
    /// What is typed, if it goes to the virtio console.
    pub input: Option<Arc<ConsoleInput>>,
    ports: Vec<(Port, Sink)>,
}

impl Consoles {
    pub(super) fn open(spec: &DevicesSpec, taken: &mut Taken) -> Result<Self, Error> {
        const FLAG: &str = "--port";
        if spec.ports.len() >= MAX_PORTS {
            let many = io::Error::other(format!("there can be {} at most", MAX_PORTS - 1));
            return Err(Error::Open { flag: FLAG, name: spec.ports.len().to_string(), source: many });
        }
        let mut ports = Vec::with_capacity(spec.ports.len());
        for port in &spec.ports {
            let fail = |source| Error::Open { flag: FLAG, name: port.file.to_string(), source };
            let sink = Sink::new(writable(FLAG, &port.file, taken)?.into()).map_err(fail)?;
            ports.push((Port { name: port.name.clone(), output: ConsoleOutput::new().map_err(fail)? }, sink));
        }
        let fail = |source| Error::Open { flag: "--console", name: "queue".to_owned(), source };
        let virtio = spec.console == ConsoleDevice::Virtio;
        let input = virtio.then(ConsoleInput::new).transpose().map_err(fail)?.map(Arc::new);
        Ok(Self { output: ConsoleOutput::new().map_err(fail)?, input, ports })
    }

    /// The virtio console, if the guest is to have one.
    pub(super) fn device(&self) -> Result<Option<Console>, Error> {
        if self.input.is_none() && self.ports.is_empty() {
            return Ok(None);
        }
        let fail = |source| Error::Open { flag: "--port", name: "queue".to_owned(), source };
        let input = match &self.input {
            Some(input) => Arc::clone(input),
            // Nobody types there.
            None => Arc::new(ConsoleInput::new().map_err(fail)?),
        };
        let console = Port { name: String::new(), output: self.output.clone() };
        let further = self
            .ports
            .iter()
            .map(|(Port { name, output }, _)| Port { name: name.clone(), output: output.clone() });
        Ok(Some(Console::new(std::iter::once(console).chain(further).collect(), input)))
    }

    /// What writes the output of further ports to their files.
    pub fn pumps(self) -> impl Iterator<Item = Box<dyn Source>> {
        let pump = |(port, sink): (Port, Sink)| -> Box<dyn Source> {
            Box::new(OutputPump::new(port.output, Some(sink)))
        };
        self.ports.into_iter().map(pump)
    }
}
