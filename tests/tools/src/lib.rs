//! What loads of `bench io` have in common.

use std::thread;
use std::time::{Duration, Instant};

/// Between two loops: long enough for whoever reads along to take note of the exits so far, on the same processor.
const PAUSE: Duration = Duration::from_millis(20);

/// Before the first loop: long enough for a guest's kernel to do what it leaves for idle times, such as taking the rest of
/// RAM into its allocator. It would be in some loops and not in others.
const SETTLE: Duration = Duration::from_millis(500);

/// Measures a load: `run` does what it is told so many times. Prints `CASE NANOSECONDS`, the time that one takes, found
/// from two loops of which the second is twice as long, so that what is around them drops out. Before, between and after
/// these loops it prints a line `@CASE`.
pub fn measure<E>(case: &str, count: usize, mut run: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
    thread::sleep(SETTLE);
    // Finds pages, buffers and windows as they will be.
    run(count)?;
    let mark = || {
        println!("@{case}");
        thread::sleep(PAUSE);
    };
    mark();
    let mut times = [0; 2];
    for (time, count) in times.iter_mut().zip([count, 2 * count]) {
        let start = Instant::now();
        run(count)?;
        *time = start.elapsed().as_nanos();
        mark();
    }
    println!("{case} {}", times[1].saturating_sub(times[0]) / count.max(1) as u128);
    Ok(())
}
