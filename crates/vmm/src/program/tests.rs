use super::{MOST, Program, ProgramError};

#[test]
fn a_program_has_to_fit() {
    assert!(Program::new(&[0x90; MOST]).is_ok());
    assert_eq!(Program::new(&[0x90; MOST + 1]), Err(ProgramError::TooLong(MOST + 1)));
}
