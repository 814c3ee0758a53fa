//! What loads of `bench io` have in common.

use std::thread;
use std::time::{Duration, Instant};

/// Between two loops: long enough for whoever reads along to take note of the exits so far, on the same processor.
const PAUSE: Duration = Duration::from_millis(20);

/// Before the first loop: long enough for a guest's kernel to do what it leaves for idle times, such as taking the rest of
/// RAM into its allocator. It would be in some loops and not in others.
const SETTLE: Duration = Duration::from_millis(500);

/// Loops are steady when one that is twice as long takes twice the time but for this part of it.
const STEADY: u32 = 20;

/// How often loops are measured at most, until they are steady.
const TRIES: usize = 12;

/// Measures a load: `run` does what it is told so many times. Prints `CASE NANOSECONDS`, the time that one takes, found
/// from two loops of which the second is twice as long, so that what is around them drops out. Before, between and after
/// these loops it prints a line `@CASE`.
///
/// Whoever sends and whoever receives can take turns in more than one way, and change from one to another at any time;
/// the difference of two loops is a figure only if both went alike. So pairs of loops are run until the times of one say
/// so, the last three lines `@CASE` are that pair's, and `CASE unsteady` says that there was none.
pub fn measure<E>(case: &str, count: usize, mut run: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
    thread::sleep(SETTLE);
    let mut timed = |count| {
        let start = Instant::now();
        run(count)?;
        let time = start.elapsed();
        println!("@{case}");
        thread::sleep(PAUSE);
        Ok(time)
    };
    // Finds pages, buffers and windows as they will be.
    timed(count)?;
    for _ in 0..TRIES {
        let (once, twice) = (timed(count)?, timed(2 * count)?);
        if is_steady(once, twice) {
            println!("{case} {}", (twice - once).as_nanos() / count.max(1) as u128);
            return Ok(());
        }
    }
    println!("{case} unsteady");
    Ok(())
}

fn is_steady(once: Duration, twice: Duration) -> bool {
    twice.abs_diff(2 * once) <= twice / STEADY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_twice_as_long_takes_twice_the_time() {
        let ms = Duration::from_millis;
        assert!(is_steady(ms(100), ms(200)) && is_steady(ms(100), ms(193)) && is_steady(ms(100), ms(210)));
        assert!(!is_steady(ms(100), ms(190)) && !is_steady(ms(100), ms(212)) && !is_steady(ms(100), ms(100)));
    }

    #[test]
    fn loops_are_repeated_until_they_are_steady() {
        let mut loops = Vec::new();
        measure("case", 1, |count| {
            loops.push(count);
            // The first pair is slow once.
            thread::sleep(Duration::from_millis(if loops.len() == 2 { 90 } else { 30 * count as u64 }));
            Ok::<_, ()>(())
        })
        .unwrap();
        assert!(loops.len() >= 5 && loops.len() % 2 == 1, "{loops:?}");
        assert!(loops[1..].chunks(2).all(|pair| pair == [1, 2]), "{loops:?}");
    }
}
