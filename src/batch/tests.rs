//! Frames are cut and values put together by hand, and then in whatever order comes.

use proptest::prelude::*;

use super::*;

fn messages<T: Clone>(frame: &[Part<T>]) -> Vec<T> {
    let message = |part: &Part<T>| match part {
        Part::Message(message) => Some(message.clone()),
        Part::Slice(_) => None,
    };
    frame.iter().filter_map(message).collect()
}

fn sliced<T>(frame: &[Part<T>]) -> usize {
    let len = |part: &Part<T>| match part {
        Part::Message(_) => 0,
        Part::Slice(slice) => slice.bytes.len(),
    };
    frame.iter().map(len).sum()
}

fn value(len: usize) -> Bytes {
    let block: Vec<u8> = (0..=250).collect();
    block.repeat(len / block.len() + 1)[..len].to_vec().into()
}

fn index(id: u64) -> usize {
    usize::try_from(id).unwrap()
}

#[test]
fn what_gathers_leaves_in_one_frame_and_urgent_messages_first() {
    let mut batch = Batch::default();
    assert!(batch.cut().is_none());
    batch.push("a get", 30);
    batch.push("another", 30);
    batch.push_urgent("a removal", 30);
    assert_eq!(messages(&batch.cut().unwrap()), ["a removal", "a get", "another"]);
    assert!(batch.is_empty() && batch.bytes() == 0);
}

#[test]
fn a_frame_is_no_larger_than_it_may_be_unless_one_message_is() {
    let mut batch = Batch::default();
    for (message, bytes) in [(1, 1000), (2, FRAME_BYTES), (3, 1000), (4, FRAME_BYTES - 1000), (5, 1)] {
        batch.push(message, bytes);
    }
    let frames: Vec<_> = std::iter::from_fn(|| batch.cut()).map(|frame| messages(&frame)).collect();
    assert_eq!(frames, [vec![1], vec![2], vec![3, 4], vec![5]]);
}

#[test]
fn nor_are_urgent_messages_too_many_for_a_frame() {
    let mut batch = Batch::default();
    batch.push(0, 1);
    for message in 1..=9 {
        batch.push_urgent(message, FRAME_BYTES / 4);
    }
    assert_eq!(batch.bytes(), 9 * FRAME_BYTES / 4 + 1, "they count as others do");
    let frames: Vec<_> = std::iter::from_fn(|| batch.cut()).map(|frame| messages(&frame)).collect();
    assert_eq!(frames, [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 0]]);
    assert!(batch.is_empty() && batch.bytes() == 0);
}

#[test]
fn what_has_no_room_behind_urgent_messages_is_the_first_of_the_next_frame() {
    for bytes in [FRAME_BYTES - 10, 10 * FRAME_BYTES] {
        let mut batch = Batch::default();
        batch.push("a large removal", bytes);
        batch.push("a get", 30);
        let mut next = || {
            batch.push_urgent("a removal", 60);
            messages(&batch.cut().unwrap())
        };
        assert_eq!(next(), ["a removal"]);
        assert_eq!(next(), ["a large removal"]);
        assert_eq!(next(), ["a removal", "a removal", "a get"]);
        assert!(batch.is_empty() && batch.bytes() == 0);
    }
}

#[test]
fn nothing_passes_an_urgent_message_that_came_before_it() {
    let mut batch = Batch::default();
    batch.push("a large removal", FRAME_BYTES);
    batch.push_urgent("a removal", 60);
    assert_eq!(messages(&batch.cut().unwrap()), ["a removal"]);
    assert_eq!(batch.take_back(|message| *message == "a large removal"), 1);
    batch.push_urgent("who speaks", 60);
    batch.push("a get", FRAME_BYTES);
    assert_eq!(messages(&batch.cut().unwrap()), ["who speaks"]);
    assert_eq!(messages(&batch.cut().unwrap()), ["a get"]);
}

#[test]
fn large_values_take_turns_and_stop_without_credit() {
    let mut batch = Batch::default();
    batch.push_large("first", 1, value(10 * SLICES_UNDER_WAY));
    batch.push_large("second", 2, value(SLICE_BYTES + 1));
    let frame = batch.cut().unwrap();
    assert_eq!(messages(&frame), ["first", "second"]);
    assert_eq!(sliced(&frame), 4 * SLICE_BYTES + 1, "three of the first, and both of the second between them");
    let mut sent = sliced(&frame);
    while let Some(frame) = batch.cut() {
        sent += sliced(&frame);
    }
    assert!((SLICES_UNDER_WAY..SLICES_UNDER_WAY + SLICE_BYTES).contains(&sent), "{sent} bytes without credit");
    batch.push("a get", 30);
    assert_eq!(messages(&batch.cut().unwrap()), ["a get"], "which large values do not hold up");
    batch.credit(sent);
    assert!(sliced(&batch.cut().unwrap()) > 0);
    assert_eq!((batch.give_up(1), batch.give_up(2)), (Some(true), None));
    assert!(batch.is_empty() && batch.bytes() == 0);
    batch.push_large("third", 3, value(SLICE_BYTES));
    assert_eq!(batch.give_up(3), Some(false), "nothing of it has been sent");
    assert!(batch.is_empty() && batch.bytes() == 0);
}

#[test]
fn what_has_not_been_sent_can_be_taken_back() {
    let mut batch = Batch::default();
    for message in 0..10 {
        batch.push(message, 100);
        batch.push_urgent(message, 1);
    }
    assert_eq!(batch.take_back(|message| *message < 8), 16);
    assert_eq!(batch.bytes(), 202);
    assert_eq!(messages(&batch.cut().unwrap()), [8, 9, 8, 9]);
    assert_eq!(batch.take_back(|_| true), 0);
}

#[test]
fn a_flood_of_small_messages_does_not_hold_up_a_large_value() {
    let mut batch = Batch::default();
    batch.push_large(0, 1, value(10 * SLICE_BYTES));
    for _ in 0..10 {
        for message in 0..1000 {
            batch.push(message, 10_000);
        }
        assert_eq!(sliced(&batch.cut().unwrap()), SLICE_BYTES);
        batch.credit(SLICE_BYTES);
    }
    assert_eq!(batch.give_up(1), None, "it has been sent");
}

#[test]
fn slices_that_do_not_fit_are_told() {
    let mut assembly = Assembly::default();
    assembly.begin(7, (), 3).unwrap();
    assert_eq!(assembly.add(&Slice { id: 8, bytes: value(1) }), Err(BadSlice::Unknown));
    assert_eq!(assembly.add(&Slice { id: 7, bytes: value(4) }), Err(BadSlice::TooLong));
    for id in 1..ASSEMBLED_AT_A_TIME as u64 {
        assembly.begin(100 + id, (), 3).unwrap();
    }
    assert_eq!(assembly.begin(1, (), 3), Err(BadSlice::TooMany));
    assert!(assembly.forget(7) && !assembly.forget(7));
    assembly.begin_unwanted(1, (), 3).unwrap();
    let nothing = Ok(Some((1, (), Bytes::new())));
    assert_eq!(assembly.add(&Slice { id: 1, bytes: value(3) }), nothing, "nobody wants it");
    assert_eq!(assembly.add(&Slice { id: 1, bytes: value(3) }), Err(BadSlice::Unknown));
}

#[test]
fn a_value_in_slices_keeps_no_more_than_its_bytes_and_grows_in_few_steps() {
    const LEN: usize = (16 << 20) + 1;
    let value = value(LEN);
    let slices: Vec<_> = (0..LEN).step_by(SLICE_BYTES).map(|at| value.slice(at..LEN.min(at + SLICE_BYTES))).collect();
    let mut assembly = Assembly::default();
    let mut whole = None;
    let allocated = allocation_counter::measure(|| {
        assembly.begin(1, (), LEN).unwrap();
        for bytes in &slices {
            whole = assembly.add(&Slice { id: 1, bytes: bytes.clone() }).unwrap();
        }
    });
    let (_, (), bytes) = whole.expect("all have come");
    assert!(bytes == value);
    assert_eq!(Vec::from(bytes).capacity(), LEN);
    assert!(allocated.bytes_total < 3 * LEN as u64 / 2, "{allocated:?}");
}

#[test]
fn what_is_promised_takes_no_room() {
    let (mut assembly, slice) = (Assembly::default(), Slice { id: 1, bytes: value(2 * SLICES_UNDER_WAY) });
    let allocated = allocation_counter::measure(|| {
        assembly.begin(1, (), 1 << 30).unwrap();
        assembly.add(&slice).unwrap();
    });
    assert!(allocated.bytes_total < 4 * SLICES_UNDER_WAY as u64, "{allocated:?}");
}

proptest! {
    /// Whatever is pushed and whenever frames are cut: everything arrives once, values whole, and nothing is left.
    #[test]
    fn everything_arrives_once_and_whole(
        pushes in prop::collection::vec((0..3_u8, 0..400_000_usize, any::<bool>()), 1..60),
    ) {
        let (mut batch, mut assembly) = (Batch::default(), Assembly::default());
        let (mut arrived, mut whole) = (Vec::new(), Vec::new());
        let mut deliver = |batch: &mut Batch<u64>| {
            let Some(frame) = batch.cut() else { return false };
            for part in frame {
                match part {
                    Part::Message(id) if pushes[index(id)].0 == 2 => {
                        assembly.begin(id, id, pushes[index(id)].1.max(1)).unwrap();
                    }
                    Part::Message(id) => arrived.push(id),
                    Part::Slice(slice) => {
                        if let Some((id, head, bytes)) = assembly.add(&slice).unwrap() {
                            assert_eq!((id, bytes), (head, value(pushes[index(id)].1.max(1))));
                            whole.push(id);
                        }
                    }
                }
            }
            if let Some(credit) = assembly.credit() {
                batch.credit(index(credit));
            }
            true
        };
        for (id, (kind, len, cut)) in (0..).zip(&pushes) {
            match kind {
                0 => batch.push_urgent(id, *len),
                1 => batch.push(id, *len),
                _ => batch.push_large(id, id, value((*len).max(1))),
            }
            if *cut {
                deliver(&mut batch);
            }
        }
        while deliver(&mut batch) {}
        prop_assert!(batch.is_empty() && batch.bytes() == 0, "{} bytes were not sent", batch.bytes());
        arrived.extend(whole);
        arrived.sort_unstable();
        prop_assert_eq!(arrived, (0..pushes.len() as u64).collect::<Vec<_>>());
    }
}
