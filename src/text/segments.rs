//! How many short messages a text becomes, and in which encoding: what is billed.
//!
//! Segments are filled from the left. One segment has 140 octets; a text that needs several loses 6 of them in each to
//! the header that joins the parts again. Neither an escape pair of the GSM alphabet nor a surrogate pair of UTF-16 is
//! ever split: half a pair shows as rubbish on the handset, and gateways avoid it the same way.

use crate::message::Encoding;
use crate::text::gsm;

/// Septets in a message of one segment, and in each of several.
pub const GSM_SINGLE: usize = 160;
pub const GSM_PART: usize = 153;
/// UTF-16 units in a message of one segment, and in each of several.
pub const UCS2_SINGLE: usize = 70;
pub const UCS2_PART: usize = 67;

/// The joining header counts parts in one octet.
pub const MAX_PARTS: usize = 255;

/// What a text takes on the air.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub encoding: Encoding,
    /// Septets for GSM, UTF-16 units for UCS-2.
    pub units: usize,
    /// At least 1, even for an empty text: an empty message is a message.
    pub segments: usize,
}

/// Measures a text in the cheapest encoding that can carry it. One pass over a text that fits GSM, two over others.
pub fn measure(text: &str) -> Size {
    let mut gsm = Filling::new(GSM_SINGLE, GSM_PART);
    for c in text.chars() {
        match gsm::cost(c) {
            Some(cost) => gsm.push(cost),
            None => return measure_ucs2(text),
        }
    }
    gsm.size(Encoding::Gsm7)
}

fn measure_ucs2(text: &str) -> Size {
    let mut ucs2 = Filling::new(UCS2_SINGLE, UCS2_PART);
    for c in text.chars() {
        ucs2.push(c.len_utf16());
    }
    ucs2.size(Encoding::Ucs2)
}

/// Fills parts as if there were several; whether one segment would do is known only at the end.
struct Filling {
    single: usize,
    part: usize,
    units: usize,
    parts: usize,
    /// Units in the last part.
    used: usize,
}

impl Filling {
    const fn new(single: usize, part: usize) -> Filling {
        Filling { single, part, units: 0, parts: 1, used: 0 }
    }

    fn push(&mut self, cost: usize) {
        self.units += cost;
        if self.used + cost > self.part {
            self.parts += 1;
            self.used = 0;
        }
        self.used += cost;
    }

    fn size(&self, encoding: Encoding) -> Size {
        let segments = if self.units <= self.single { 1 } else { self.parts };
        Size { encoding, units: self.units, segments }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{GSM_PART, Size, UCS2_PART, measure};
    use crate::message::Encoding;

    fn gsm(text: &str) -> (usize, usize) {
        let Size { encoding, units, segments } = measure(text);
        assert_eq!(encoding, Encoding::Gsm7, "{text:?}");
        (units, segments)
    }

    fn ucs2(text: &str) -> (usize, usize) {
        let Size { encoding, units, segments } = measure(text);
        assert_eq!(encoding, Encoding::Ucs2, "{text:?}");
        (units, segments)
    }

    #[test]
    fn gsm_lengths_at_the_boundaries() {
        for (length, segments) in [
            (0, 1),
            (1, 1),
            (160, 1),
            (161, 2),
            (306, 2),
            (307, 3),
            (459, 3),
            (460, 4),
            (1530, 10),
            (1531, 11),
        ] {
            assert_eq!(gsm(&"a".repeat(length)), (length, segments));
        }
    }

    #[test]
    fn ucs2_lengths_at_the_boundaries() {
        for (length, segments) in [(1, 1), (70, 1), (71, 2), (134, 2), (135, 3), (201, 3), (202, 4)] {
            assert_eq!(ucs2(&"ж".repeat(length)), (length, segments));
        }
    }

    #[test]
    fn an_escape_pair_moves_to_the_next_segment_as_a_whole() {
        assert_eq!(gsm(&format!("{}€", "a".repeat(158))), (160, 1));
        assert_eq!(gsm(&format!("{}€", "a".repeat(159))), (161, 2));
        // 306 septets, but the pair would straddle the first boundary, so the last character needs a third segment.
        assert_eq!(gsm(&format!("{}€{}", "a".repeat(152), "a".repeat(152))), (306, 3));
        assert_eq!(gsm(&format!("{}€{}", "a".repeat(152), "a".repeat(151))), (305, 2));
        assert_eq!(gsm(&format!("{}€{}", "a".repeat(151), "a".repeat(153))), (306, 2));
        assert_eq!(gsm(&"€".repeat(80)), (160, 1));
        assert_eq!(gsm(&"€".repeat(152)), (304, 2));
        assert_eq!(gsm(&"€".repeat(153)), (306, 3));
    }

    #[test]
    fn a_surrogate_pair_moves_to_the_next_segment_as_a_whole() {
        assert_eq!(ucs2(&"😀".repeat(35)), (70, 1));
        assert_eq!(ucs2(&"😀".repeat(36)), (72, 2));
        assert_eq!(ucs2(&"😀".repeat(66)), (132, 2));
        assert_eq!(ucs2(&"😀".repeat(67)), (134, 3));
        assert_eq!(ucs2(&format!("{}😀{}", "ж".repeat(66), "ж".repeat(66))), (134, 3));
        assert_eq!(ucs2(&format!("{}😀{}", "ж".repeat(65), "ж".repeat(67))), (134, 2));
    }

    #[test]
    fn one_foreign_character_changes_the_encoding_of_all() {
        assert_eq!(ucs2(&format!("{}á", "a".repeat(70))), (71, 2));
        assert_eq!(ucs2("[á]"), (3, 1));
    }

    #[test]
    fn a_megabyte_is_counted() {
        assert_eq!(gsm(&"a".repeat(1 << 20)).1, (1_usize << 20).div_ceil(GSM_PART));
        assert_eq!(ucs2(&"ж".repeat(1 << 19)).1, (1_usize << 19).div_ceil(UCS2_PART));
    }

    proptest! {
        #[test]
        fn a_longer_text_never_takes_fewer_segments(text in "[ -~€éж😀\n]{0,400}", more in any::<char>()) {
            let mut longer = text.clone();
            longer.push(more);
            prop_assert!(measure(&longer).segments >= measure(&text).segments);
        }

        #[test]
        fn segments_hold_all_units_and_few_are_wasted(text in "[ -~€éж😀\n]{0,700}") {
            let size = measure(&text);
            let part = if size.encoding == Encoding::Gsm7 { GSM_PART } else { UCS2_PART };
            if size.segments > 1 {
                prop_assert!(size.units <= size.segments * part);
                // At most one unit stays empty in a part that is full.
                prop_assert!(size.units > (size.segments - 1) * (part - 1));
            }
        }

        #[test]
        fn ucs2_units_are_utf16_units(text in "\\PC{0,200}") {
            let size = measure(&text);
            if size.encoding == Encoding::Ucs2 {
                prop_assert_eq!(size.units, text.encode_utf16().count());
            }
        }
    }
}
