use super::Sparse;
use std::collections::BTreeMap;
use std::vec::Vec;

type Tree = Sparse<u16, 4>;

fn filled(pages: &[u64]) -> Tree {
    let mut tree = Tree::default();
    for page in pages {
        tree.put(*page, 7).expect("memory");
    }
    tree
}

#[test]
fn what_was_put_is_there_and_nothing_else() {
    let pages = [0, 3, 4, 255, 256, 1 << 20, (1 << 40) - 1];
    let tree = filled(&pages);
    for page in pages {
        assert_eq!(tree.get(page), 7);
        assert_eq!(tree.get(page ^ 1), if pages.contains(&(page ^ 1)) { 7 } else { 0 });
    }
    assert_eq!(tree.get(1 << 50), 0);
}

#[test]
fn an_empty_tree_has_nothing_and_takes_no_memory() {
    let mut tree = Tree::default();
    assert!(!tree.any(0..u64::MAX));
    tree.put(12345, 0).expect("nothing to do");
    assert!(tree.root.is_none());
}

#[test]
fn any_agrees_with_a_look_at_each_page() {
    let pages = [5, 6, 300, 1025, 70_000];
    let tree = filled(&pages);
    for start in (0..1100).chain(69_990..70_010) {
        for length in [1, 3, 4, 8, 250, 70_000] {
            let expected = pages.iter().any(|page| (start..start + length).contains(page));
            assert_eq!(tree.any(start..start + length), expected, "{start} {length}");
        }
    }
}

#[test]
fn a_value_that_is_absent_again_counts_no_more() {
    let mut tree = filled(&[9, 10]);
    tree.put(9, 0).expect("memory");
    assert!(!tree.any(8..10));
    assert!(tree.any(8..11));
    tree.put(10, 0).expect("memory");
    assert!(!tree.any(0..1 << 40));
}

#[test]
fn each_value_is_told_of_once_in_order() {
    let pages = [1u64, 2, 66, 4096, 1 << 30];
    let mut told = Vec::new();
    filled(&pages).for_each(&mut |page, value| told.push((page, value)));
    assert_eq!(told, pages.map(|page| (page, 7)));
}

proptest::proptest! {
    #[test]
    fn it_is_a_map(steps in proptest::collection::vec((0u64..2000, 0u16..3), 0..200)) {
        let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
        for (page, value) in steps {
            tree.put(page * page, value).expect("memory");
            map.insert(page * page, value);
            proptest::prop_assert_eq!(tree.get(page * page), value);
        }
        let mut told = Vec::new();
        tree.for_each(&mut |page, value| told.push((page, value)));
        map.retain(|_, value| *value != 0);
        proptest::prop_assert_eq!(told, map.into_iter().collect::<Vec<_>>());
    }
}
