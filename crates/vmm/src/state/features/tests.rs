use super::*;

const EVERY: u32 = 0;
const ONE: u32 = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

fn leaf(function: u32, index: u32, flags: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, flags, ..Default::default() }
}

fn word(leaf: u32, subleaf: u32, register: Register) -> CpuidWord {
    CpuidWord { leaf, subleaf, register }
}

#[test]
fn every_feature_that_the_host_lacks_is_found_whatever_its_word() {
    for (function, index, register, mask) in FEATURES {
        for bit in (0..32).map(|bit| 1 << bit) {
            let mut entry = leaf(function, index, ONE);
            *match register {
                Register::Eax => &mut entry.eax,
                Register::Ebx => &mut entry.ebx,
                Register::Ecx => &mut entry.ecx,
                Register::Edx => &mut entry.edx,
            } = bit;
            let expected = (bit & mask != 0).then_some((word(function, index, register), bit));
            assert_eq!(lacking(&[entry], &[]), expected);
            assert_eq!(lacking(&[entry], &[leaf(function, index, ONE)]), expected);
            assert_eq!(lacking(&[entry], &[entry]), None);
        }
    }
}

#[test]
fn a_host_may_have_more_than_the_guest_was_given() {
    let host = kvm_cpuid_entry2 { edx: 0b111, ..leaf(1, 0, EVERY) };
    let guest = kvm_cpuid_entry2 { edx: 0b101, ..host };
    assert_eq!(lacking(&[guest], &[host]), None);
    assert_eq!(lacking(&[host], &[guest]), Some((word(1, 0, Register::Edx), 0b10)));
}

#[test]
fn what_is_no_feature_may_differ() {
    let name = kvm_cpuid_entry2 { eax: 1, ebx: 2, ecx: 3, edx: 4, ..leaf(0x8000_0002, 0, EVERY) };
    let signature = kvm_cpuid_entry2 { eax: 0x00a2_0f10, ebx: 0x0700_0800, ..leaf(1, 0, EVERY) };
    let sizes = kvm_cpuid_entry2 { ebx: 2440, ecx: 2440, ..leaf(0xd, 0, ONE) };
    assert_eq!(lacking(&[name, signature, sizes], &[]), None);
}

#[test]
fn an_entry_for_every_sub_leaf_is_looked_at_for_each() {
    let sly = kvm_cpuid_entry2 { ecx: 1 << 2, ..leaf(7, 99, EVERY) };
    assert_eq!(lacking(&[sly], &[]), Some((word(7, 0, Register::Ecx), 1 << 2)));
    let told = kvm_cpuid_entry2 { index: 99, flags: ONE, ..sly };
    assert_eq!(lacking(&[told], &[]), None, "nobody knows what sub-leaf 99 is");
}

#[test]
fn of_two_entries_for_a_leaf_neither_hides_the_other() {
    let honest = leaf(1, 0, EVERY);
    let other = kvm_cpuid_entry2 { ecx: 1 << 16, ..honest };
    for guest in [[honest, other], [other, honest]] {
        assert_eq!(lacking(&guest, &[honest]), Some((word(1, 0, Register::Ecx), 1 << 16)));
    }
}

#[test]
fn a_word_is_named_by_leaf_sub_leaf_and_register() {
    let said = word(0x8000_0001, 0, Register::Ecx).to_string();
    assert_eq!(said, "ECX in CPUID leaf 0x80000001, sub-leaf 0");
}
