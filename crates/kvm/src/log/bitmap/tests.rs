use super::*;

#[test]
fn a_mask_has_the_pages_of_a_range_and_no_other() {
    for start in 0..140 {
        for end in start..=200 {
            for word in 0..4 {
                let naive = (0..64_u64)
                    .filter(|bit| (start..end).contains(&(word * 64 + bit)))
                    .fold(0, |mask, bit| mask | 1 << bit);
                assert_eq!(mask(&(start..end), word), naive, "{start}..{end}, word {word}");
            }
        }
    }
}
