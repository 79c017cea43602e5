//! Bytes on their way between the processes and the port: as much as may go at the moment.

use cofferdam_proto::Channel;

use super::{Sessions, log_failure, output::ReadOutcome};
use crate::{failure::Result, poll::Token, port::Port};

impl Sessions {
    pub(super) fn pump_input(&mut self, number: u32, port: &mut Port) {
        if self.held {
            return;
        }
        let Some(session) = self.table.get_mut(&number) else {
            self.pump_stream_input(number, port);
            return;
        };
        match session.input.pump(&self.poll, Token::Stdin(number)) {
            Ok(freed) => port.credit(number, freed),
            failed => log_failure(failed.map(drop)),
        }
    }

    pub(super) fn pump_outputs(&mut self, port: &mut Port) -> Result<()> {
        let mut events = Vec::new();
        self.outputs.wait(false, &mut events)?;
        for (token, _) in events {
            if let Token::Output(number, channel) = token
                && !port.is_congested()
            {
                self.pump_output(number, channel, port);
            }
        }
        Ok(())
    }

    pub(super) fn pump_output(&mut self, number: u32, channel: Channel, port: &mut Port) {
        let Some(session) = self.table.get_mut(&number) else {
            self.pump_stream_output(number, port);
            return;
        };
        let Some(at) = session
            .outputs
            .iter()
            .position(|output| output.channel == channel)
        else {
            return;
        };
        let Some(output) = session.outputs.get_mut(at) else {
            return;
        };
        let mut last = output.pump(number, port);
        if output.exhausted {
            last = output.pump(number, port);
        }
        if last == ReadOutcome::Ended {
            let mut output = session.outputs.remove(at);
            output.unwatch(&self.outputs);
            if !output.exhausted {
                self.orphans.take_output(&self.poll, output.fd);
            }
            self.end_if_silent(number);
        } else {
            log_failure(output.watch(&self.outputs, number));
        }
    }
}
