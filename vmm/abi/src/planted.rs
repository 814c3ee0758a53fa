//! A slowdown on purpose: it shows that the guard against slowdowns finds one, and names the function it is in.

/// How often [`spin`] goes round, said when it is built.
const ROUNDS: u64 = match u64::from_str_radix(env!("JIFFY_PLANTED"), 10) {
    Ok(rounds) => rounds,
    Err(_) => panic!("JIFFY_PLANTED is no number"),
};

/// Executes a few instructions for nothing, [`ROUNDS`] times, in the function that calls it.
#[inline(always)]
pub fn spin() {
    for round in 0..ROUNDS {
        core::hint::black_box(round);
    }
}
